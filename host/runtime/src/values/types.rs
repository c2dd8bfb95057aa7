//! The type of a WIT value, as plain data.

use std::fmt;
use std::sync::Arc;

/// The type of a WIT value. Clones are cheap; equality ignores nothing, names and docs included.
///
/// `list<u8>` is a type of its own, [`Type::Bytes`], because every encoding treats it so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are WIT's own names")]
pub enum Type {
    Bool,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Char,
    String,
    /// `list<u8>`.
    Bytes,
    /// A list of anything but bytes.
    List(Arc<Type>),
    Option(Arc<Type>),
    Result {
        ok: Option<Arc<Type>>,
        err: Option<Arc<Type>>,
    },
    Tuple(Arc<[Type]>),
    Record(Arc<Record>),
    Variant(Arc<Variant>),
    Enum(Arc<Enum>),
    Flags(Arc<Flags>),
}

/// A record type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The type's own name; empty where the source of the type does not keep it.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// The fields, in the order of their declaration.
    pub fields: Vec<Field>,
    /// Indexes into `fields`, in the order of their names' canonical encodings.
    canonical: Vec<u32>,
}

/// One field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field's name.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// Its type.
    pub ty: Type,
}

/// A variant type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The type's own name; empty where the source of the type does not keep it.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// The cases, in the order of their declaration.
    pub cases: Vec<Case>,
}

/// One case of a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The case's name.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// The type of its payload, if it has one.
    pub ty: Option<Type>,
}

/// An enum type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enum {
    /// The type's own name; empty where the source of the type does not keep it.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// The names of the cases, in the order of their declaration.
    pub cases: Vec<String>,
}

/// A flags type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The type's own name; empty where the source of the type does not keep it.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// The names of the flags, in the order of their declaration.
    pub flags: Vec<String>,
    /// Indexes into `flags`, in bytewise order of the names.
    canonical: Vec<u32>,
}

impl Record {
    /// A record of these fields.
    pub fn new(name: impl Into<String>, docs: impl Into<String>, fields: Vec<Field>) -> Self {
        // The canonical order of map keys is that of their encodings: a text's encoding begins with
        // its length, so shorter names come first.
        let mut canonical: Vec<u32> = (0..fields.len() as u32).collect();
        canonical.sort_by_key(|&i| {
            let name = &fields[i as usize].name;
            (name.len(), name.clone())
        });
        Self {
            name: name.into(),
            docs: docs.into(),
            fields,
            canonical,
        }
    }

    /// The fields with their indexes, in the order in which canonical CBOR writes them.
    pub(super) fn canonical(&self) -> impl Iterator<Item = (usize, &Field)> {
        self.canonical
            .iter()
            .map(|&i| (i as usize, &self.fields[i as usize]))
    }
}

impl Flags {
    /// Flags of these names.
    pub fn new(name: impl Into<String>, docs: impl Into<String>, flags: Vec<String>) -> Self {
        let mut canonical: Vec<u32> = (0..flags.len() as u32).collect();
        canonical.sort_by(|&a, &b| flags[a as usize].cmp(&flags[b as usize]));
        Self {
            name: name.into(),
            docs: docs.into(),
            flags,
            canonical,
        }
    }

    /// The indexes of the flags in bytewise order of their names.
    pub(super) fn canonical(&self) -> impl Iterator<Item = usize> {
        self.canonical.iter().map(|&i| i as usize)
    }
}

impl Type {
    /// The list of `element`; [`Type::Bytes`] for `u8`.
    pub fn list(element: Type) -> Self {
        match element {
            Type::U8 => Type::Bytes,
            element => Type::List(Arc::new(element)),
        }
    }

    /// The option of `some`.
    pub fn option(some: Type) -> Self {
        Type::Option(Arc::new(some))
    }

    /// The result of these payloads.
    pub fn result(ok: Option<Type>, err: Option<Type>) -> Self {
        Type::Result {
            ok: ok.map(Arc::new),
            err: err.map(Arc::new),
        }
    }

    /// The tuple of `types`.
    pub fn tuple(types: Vec<Type>) -> Self {
        Type::Tuple(types.into())
    }

    /// How deeply this type nests; 1 for a type without parts.
    pub fn depth(&self) -> usize {
        fn of<'a>(parts: impl Iterator<Item = &'a Type>) -> usize {
            parts.map(Type::depth).max().unwrap_or(0)
        }
        1 + match self {
            Type::List(part) | Type::Option(part) => part.depth(),
            Type::Result { ok, err } => of(ok.iter().chain(err).map(|ty| &**ty)),
            Type::Tuple(parts) => of(parts.iter()),
            Type::Record(record) => of(record.fields.iter().map(|field| &field.ty)),
            Type::Variant(variant) => of(variant.cases.iter().filter_map(|case| case.ty.as_ref())),
            _ => 0,
        }
    }

    /// The name of a type that was declared with one.
    pub fn name(&self) -> Option<&str> {
        let name = match self {
            Type::Record(ty) => &ty.name,
            Type::Variant(ty) => &ty.name,
            Type::Enum(ty) => &ty.name,
            Type::Flags(ty) => &ty.name,
            _ => return None,
        };
        (!name.is_empty()).then_some(name)
    }

    /// What kind of type this is, for messages: `a record`, `text`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Type::Bool => "bool",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::Bytes => "list<u8>",
            Type::List(_) => "list",
            Type::Option(_) => "option",
            Type::Result { .. } => "result",
            Type::Tuple(_) => "tuple",
            Type::Record(_) => "record",
            Type::Variant(_) => "variant",
            Type::Enum(_) => "enum",
            Type::Flags(_) => "flags",
        }
    }

    /// Calls `visit` on this type and every named type within it, parts before wholes.
    pub fn visit_named<'a>(&'a self, visit: &mut impl FnMut(&'a Type)) {
        match self {
            Type::List(part) | Type::Option(part) => part.visit_named(visit),
            Type::Result { ok, err } => {
                for part in ok.iter().chain(err) {
                    part.visit_named(visit);
                }
            }
            Type::Tuple(parts) => parts.iter().for_each(|part| part.visit_named(visit)),
            Type::Record(ty) => ty.fields.iter().for_each(|f| f.ty.visit_named(visit)),
            Type::Variant(ty) => {
                for part in ty.cases.iter().filter_map(|case| case.ty.as_ref()) {
                    part.visit_named(visit);
                }
            }
            _ => {}
        }
        if self.name().is_some() {
            visit(self);
        }
    }
}

/// The WIT text of the type; a named type as its name.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            return f.write_str(name);
        }
        self.fmt_definition(f)
    }
}

impl Type {
    /// The WIT declaration of a named type, on one line: `record point { x: s32, y: s32 }`.
    pub fn definition(&self) -> impl fmt::Display {
        struct Definition<'a>(&'a Type);
        impl fmt::Display for Definition<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt_definition(f)
            }
        }
        Definition(self)
    }

    fn fmt_definition(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn separated<T>(
            f: &mut fmt::Formatter<'_>,
            items: &[T],
            mut each: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
        ) -> fmt::Result {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    f.write_str(", ")?;
                }
                each(f, item)?;
            }
            Ok(())
        }
        fn open(f: &mut fmt::Formatter<'_>, kind: &str, name: &str) -> fmt::Result {
            match name {
                "" => write!(f, "{kind} {{ "),
                name => write!(f, "{kind} {name} {{ "),
            }
        }
        match self {
            Type::List(ty) => write!(f, "list<{ty}>"),
            Type::Option(ty) => write!(f, "option<{ty}>"),
            Type::Result { ok, err } => match (ok, err) {
                (None, None) => f.write_str("result"),
                (Some(ok), None) => write!(f, "result<{ok}>"),
                (None, Some(err)) => write!(f, "result<_, {err}>"),
                (Some(ok), Some(err)) => write!(f, "result<{ok}, {err}>"),
            },
            Type::Tuple(types) => {
                f.write_str("tuple<")?;
                separated(f, types, |f, ty| write!(f, "{ty}"))?;
                f.write_str(">")
            }
            Type::Record(ty) => {
                open(f, "record", &ty.name)?;
                separated(f, &ty.fields, |f, field| {
                    write!(f, "{}: {}", field.name, field.ty)
                })?;
                f.write_str(" }")
            }
            Type::Variant(ty) => {
                open(f, "variant", &ty.name)?;
                separated(f, &ty.cases, |f, case| match &case.ty {
                    Some(ty) => write!(f, "{}({ty})", case.name),
                    None => f.write_str(&case.name),
                })?;
                f.write_str(" }")
            }
            Type::Enum(ty) => {
                open(f, "enum", &ty.name)?;
                separated(f, &ty.cases, |f, case| f.write_str(case))?;
                f.write_str(" }")
            }
            Type::Flags(ty) => {
                open(f, "flags", &ty.name)?;
                separated(f, &ty.flags, |f, flag| f.write_str(flag))?;
                f.write_str(" }")
            }
            plain => f.write_str(plain.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, ty: Type) -> Field {
        Field {
            name: name.into(),
            docs: String::new(),
            ty,
        }
    }

    #[test]
    fn a_type_prints_as_wit() {
        let point = Type::Record(Arc::new(Record::new(
            "point",
            "",
            vec![
                field("x", Type::S32),
                field("label", Type::option(Type::String)),
            ],
        )));
        let ty = Type::result(
            Some(Type::list(Type::tuple(vec![
                point.clone(),
                Type::list(Type::U8),
            ]))),
            None,
        );
        assert_eq!(ty.to_string(), "result<list<tuple<point, list<u8>>>>");
        assert_eq!(
            point.definition().to_string(),
            "record point { x: s32, label: option<string> }"
        );
        assert_eq!(ty.depth(), 6);
        let mut named = Vec::new();
        ty.visit_named(&mut |ty| named.push(ty.to_string()));
        assert_eq!(named, ["point"]);
    }

    #[test]
    fn shorter_names_come_first_in_canonical_order() {
        let record = Record::new(
            "",
            "",
            vec![
                field("bb", Type::Bool),
                field("aaa", Type::Bool),
                field("c", Type::Bool),
                field("ab", Type::Bool),
            ],
        );
        let names: Vec<_> = record.canonical().map(|(_, f)| f.name.as_str()).collect();
        assert_eq!(names, ["c", "ab", "bb", "aaa"]);
    }
}
