//! What a component is, read out of the component itself.
//!
//! Types come from its binary. Documentation is not part of that, so builds put the encoded WIT package
//! beside it, in a custom section named [`WIT_SECTION`]; a component without one has no documentation,
//! and nothing else depends on it.

use std::collections::BTreeMap;

use lattice_format::ComponentId;
use lattice_kernel::run::engine::CallKind;
use wasmparser::{Parser, Payload};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{InterfaceId, Resolve, WorldId, WorldItem, WorldKey};

use crate::call_depth;
use crate::imports;
use crate::limits::{COMPONENT_BYTES_MAX, FUNCTIONS_MAX, TYPE_DEPTH_MAX};
use crate::names;
use crate::schema::{Function, Interface, Param, Schema};
use crate::values::{Case, Enum, Field, Flags, Record, Type, Variant};

/// The custom section of a component that holds its WIT package, encoded as by
/// `wit_component::encode`, for the documentation.
pub const WIT_SECTION: &str = "lattice:wit";

/// Why bytes are no component that can be installed.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is larger than is looked at.
    #[error(
        "the component has {bytes} bytes, and {max} are allowed; strip it of debug information"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It is a core module, and not a component.
    #[error(
        "this is a core WebAssembly module, not a component; make one of it with `wasm-tools component new`"
    )]
    Module,
    /// It is an encoded WIT package, and not a component.
    #[error("this is a WIT package, not a component: it has no code")]
    Wit,
    /// It is not a valid component.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// It imports what the host does not have.
    #[error("the component imports what this host does not have:{}", .0.iter().map(|line| format!("\n  {line}")).collect::<String>())]
    Imports(Vec<String>),
    /// It has no function that a call could reach.
    #[error(
        "the component exports no commands and no queries: it needs an interface named `commands` or `queries` with functions{}",
        match .ignored[..] { [] => String::new(), _ => format!("; it exports {}", .ignored.join(", ")) }
    )]
    NothingCallable {
        /// What it exports instead.
        ignored: Vec<String>,
    },
    /// A function has a type that no call can carry.
    #[error(
        "{interface} {function}: {what} is {found}; use a type whose values can be written down"
    )]
    NotAValue {
        /// The interface.
        interface: String,
        /// The function.
        function: String,
        /// Which parameter, or the result.
        what: String,
        /// What it is.
        found: &'static str,
    },
    /// A function's types nest too deeply.
    #[error("{interface} {function}: {what} nests {depth} types deep; nest at most {max}")]
    TooDeep {
        /// The interface.
        interface: String,
        /// The function.
        function: String,
        /// Which parameter, or the result.
        what: String,
        /// How deep it nests.
        depth: usize,
        /// The bound.
        max: usize,
    },
    /// Two versions of one interface, or more functions than are allowed.
    #[error("{0}")]
    Shape(String),
}

/// Reads what a component is.
///
/// # Errors
/// When it could not be installed, with what is wrong and what to do about it.
pub fn inspect(bytes: &[u8]) -> Result<Schema, InspectError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(InspectError::TooLarge {
            bytes: bytes.len(),
            max: COMPONENT_BYTES_MAX,
        });
    }
    if Parser::is_core_wasm(bytes) {
        return Err(InspectError::Module);
    }
    if !Parser::is_component(bytes) {
        let reason = "it does not begin as one; is it truncated, or another kind of file?";
        return Err(InspectError::Invalid(reason.into()));
    }
    call_depth::validate(bytes).map_err(|error| InspectError::Invalid(error.to_string()))?;
    let decoded = guarded_decode(bytes).map_err(InspectError::Invalid)?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(InspectError::Wit);
    };
    let missing = imports::missing(&resolve, world);
    if !missing.is_empty() {
        return Err(InspectError::Imports(missing));
    }
    let docs = Docs::read(bytes);
    let mut schema = Schema {
        component: ComponentId(*blake3::hash(bytes).as_bytes()),
        bytes: bytes.len(),
        interfaces: Vec::new(),
        imports: resolve.worlds[world]
            .imports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .collect(),
        ignored: Vec::new(),
        governs: false,
    };
    exports(&mut schema, &resolve, world, &docs)?;
    Ok(schema)
}

/// Reads types. What the library does not expect of a valid component is a panic there, and the component's
/// fault here.
fn guarded_decode(bytes: &[u8]) -> Result<DecodedWasm, String> {
    match std::panic::catch_unwind(|| decode(bytes)) {
        Ok(decoded) => decoded.map_err(|error| format!("{error:#}")),
        Err(_) => Err("its types are of a shape that cannot be read".into()),
    }
}

fn exports(
    schema: &mut Schema,
    resolve: &Resolve,
    world: WorldId,
    docs: &Docs,
) -> Result<(), InspectError> {
    let mut functions = 0;
    for (key, item) in &resolve.worlds[world].exports {
        let name = resolve.name_world_key(key);
        schema.governs |= names::without_version(&name) == names::GOVERNANCE;
        let (kind, id) = match (names::kind(&name), item) {
            (Some(kind), WorldItem::Interface { id, .. }) => (kind, *id),
            _ => {
                schema.ignored.push(name);
                continue;
            }
        };
        let interface = interface(resolve, key, &name, kind, id, docs)?;
        functions += interface.functions.len();
        if schema.interface(&interface.id).is_some() {
            let id = interface.id;
            let shape = format!("{id} is exported in two versions, and calls name none");
            return Err(InspectError::Shape(shape));
        }
        schema.interfaces.push(interface);
    }
    if functions > FUNCTIONS_MAX {
        let shape = format!("it exports {functions} functions; {FUNCTIONS_MAX} are allowed");
        return Err(InspectError::Shape(shape));
    }
    let callable =
        |interface: &Interface| interface.kind != CallKind::Init && !interface.functions.is_empty();
    if !schema.governs && !schema.interfaces.iter().any(callable) {
        let ignored = std::mem::take(&mut schema.ignored);
        return Err(InspectError::NothingCallable { ignored });
    }
    schema.interfaces.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(())
}

fn interface(
    resolve: &Resolve,
    key: &WorldKey,
    name: &str,
    kind: CallKind,
    id: InterfaceId,
    docs: &Docs,
) -> Result<Interface, InspectError> {
    let item = &resolve.interfaces[id];
    let documented = docs.interface(name);
    let mut functions = Vec::with_capacity(item.functions.len());
    for (function, item) in &item.functions {
        let error = |what: &str, wrong: Wrong| wrong.into_error(name, function, what);
        let documented = documented.and_then(|(resolve, id)| {
            resolve.interfaces[id]
                .functions
                .get(function)
                .map(|item| (resolve, item))
        });
        let mut params = Vec::with_capacity(item.params.len());
        for (i, param) in item.params.iter().enumerate() {
            let documented = documented
                .and_then(|(resolve, item)| item.params.get(i).map(|param| (resolve, param.ty)));
            let ty = value_type(resolve, &param.ty, documented);
            let ty = ty.map_err(|wrong| error(&format!("parameter '{}'", param.name), wrong))?;
            params.push(Param {
                name: param.name.clone(),
                ty,
            });
        }
        let result = item.result.map(|ty| {
            let documented = documented.and_then(|(resolve, item)| Some((resolve, item.result?)));
            value_type(resolve, &ty, documented).map_err(|wrong| error("the result", wrong))
        });
        functions.push(Function {
            name: function.clone(),
            docs: documented.map_or(String::new(), |(_, item)| text(&item.docs)),
            params,
            result: result.transpose()?,
        });
    }
    let version = match key {
        WorldKey::Interface(_) => name.split_once('@').map(|(_, version)| version.to_owned()),
        WorldKey::Name(_) => None,
    };
    Ok(Interface {
        id: names::without_version(name).to_owned(),
        version,
        kind,
        docs: documented.map_or(String::new(), |(resolve, id)| {
            text(&resolve.interfaces[id].docs)
        }),
        functions,
    })
}

enum Wrong {
    NotAValue(&'static str),
    TooDeep(usize),
}

impl Wrong {
    fn into_error(self, interface: &str, function: &str, what: &str) -> InspectError {
        let (interface, function) = (interface.to_owned(), function.to_owned());
        let what = what.to_owned();
        match self {
            Wrong::NotAValue(found) => InspectError::NotAValue {
                interface,
                function,
                what,
                found,
            },
            Wrong::TooDeep(depth) => InspectError::TooDeep {
                interface,
                function,
                what,
                depth,
                max: TYPE_DEPTH_MAX,
            },
        }
    }
}

/// A type of the component as one of ours, with the docs of the same type in the package beside it.
pub(crate) type Documented<'a> = Option<(&'a Resolve, wit_parser::Type)>;

fn value_type(
    resolve: &Resolve,
    ty: &wit_parser::Type,
    documented: Documented<'_>,
) -> Result<Type, Wrong> {
    let ty = convert(resolve, ty, documented, 1)?;
    match ty.depth() {
        depth if depth > TYPE_DEPTH_MAX => Err(Wrong::TooDeep(depth)),
        _ => Ok(ty),
    }
}

fn convert(
    resolve: &Resolve,
    ty: &wit_parser::Type,
    documented: Documented<'_>,
    depth: usize,
) -> Result<Type, Wrong> {
    use wit_parser::Type as Wit;
    // Aliases nest too, and cost a frame each.
    if depth > 4 * TYPE_DEPTH_MAX {
        return Err(Wrong::TooDeep(depth));
    }
    Ok(match ty {
        Wit::Bool => Type::Bool,
        Wit::U8 => Type::U8,
        Wit::U16 => Type::U16,
        Wit::U32 => Type::U32,
        Wit::U64 => Type::U64,
        Wit::S8 => Type::S8,
        Wit::S16 => Type::S16,
        Wit::S32 => Type::S32,
        Wit::S64 => Type::S64,
        Wit::F32 => Type::F32,
        Wit::F64 => Type::F64,
        Wit::Char => Type::Char,
        Wit::String => Type::String,
        Wit::ErrorContext => return Err(Wrong::NotAValue("an error context")),
        Wit::Id(id) => definition(resolve, &resolve.types[*id], documented, depth + 1)?,
    })
}

fn definition(
    resolve: &Resolve,
    def: &wit_parser::TypeDef,
    documented: Documented<'_>,
    depth: usize,
) -> Result<Type, Wrong> {
    use wit_parser::TypeDefKind as Kind;
    let documented = documented.and_then(|(resolve, ty)| definition_of(resolve, ty));
    // The documented twin's part that `pick` names, if it has one.
    let twin = |pick: &dyn Fn(&Kind) -> Option<wit_parser::Type>| -> Documented<'_> {
        let (resolve, def) = documented?;
        Some((resolve, pick(&def.kind)?))
    };
    let docs = || documented.map_or(String::new(), |(_, def)| text(&def.docs));
    let part = |ty: &wit_parser::Type, twin| convert(resolve, ty, twin, depth);
    let name = || def.name.clone().unwrap_or_default();
    Ok(match &def.kind {
        Kind::Record(record) => {
            let mut fields = Vec::with_capacity(record.fields.len());
            for (i, field) in record.fields.iter().enumerate() {
                let own = |kind: &Kind| match kind {
                    Kind::Record(record) => record.fields.get(i).cloned(),
                    _ => None,
                };
                fields.push(Field {
                    name: field.name.clone(),
                    docs: documented
                        .and_then(|(_, def)| own(&def.kind))
                        .map_or(String::new(), |field| text(&field.docs)),
                    ty: part(&field.ty, twin(&|kind| Some(own(kind)?.ty)))?,
                });
            }
            Type::Record(Record::new(name(), docs(), fields).into())
        }
        Kind::Variant(variant) => {
            let mut cases = Vec::with_capacity(variant.cases.len());
            for (i, case) in variant.cases.iter().enumerate() {
                let own = |kind: &Kind| match kind {
                    Kind::Variant(variant) => variant.cases.get(i).cloned(),
                    _ => None,
                };
                let ty = case
                    .ty
                    .as_ref()
                    .map(|ty| part(ty, twin(&|kind| own(kind)?.ty)));
                cases.push(Case {
                    name: case.name.clone(),
                    docs: documented
                        .and_then(|(_, def)| own(&def.kind))
                        .map_or(String::new(), |case| text(&case.docs)),
                    ty: ty.transpose()?,
                });
            }
            Type::Variant(
                Variant {
                    name: name(),
                    docs: docs(),
                    cases,
                }
                .into(),
            )
        }
        Kind::Enum(ty) => Type::Enum(
            Enum {
                name: name(),
                docs: docs(),
                cases: ty.cases.iter().map(|case| case.name.clone()).collect(),
            }
            .into(),
        ),
        Kind::Flags(ty) => {
            let flags = ty.flags.iter().map(|flag| flag.name.clone()).collect();
            Type::Flags(Flags::new(name(), docs(), flags).into())
        }
        Kind::Tuple(tuple) => {
            let mut types = Vec::with_capacity(tuple.types.len());
            for (i, ty) in tuple.types.iter().enumerate() {
                let own = twin(&|kind| match kind {
                    Kind::Tuple(tuple) => tuple.types.get(i).copied(),
                    _ => None,
                });
                types.push(part(ty, own)?);
            }
            Type::tuple(types)
        }
        Kind::Option(ty) => Type::option(part(
            ty,
            twin(&|kind| match kind {
                Kind::Option(ty) => Some(*ty),
                _ => None,
            }),
        )?),
        Kind::List(ty) => Type::list(part(
            ty,
            twin(&|kind| match kind {
                Kind::List(ty) => Some(*ty),
                _ => None,
            }),
        )?),
        Kind::Result(result) => {
            let own = |ok: bool| {
                twin(&|kind| match kind {
                    Kind::Result(result) if ok => result.ok,
                    Kind::Result(result) => result.err,
                    _ => None,
                })
            };
            let ok = result
                .ok
                .as_ref()
                .map(|ty| part(ty, own(true)))
                .transpose()?;
            let err = result
                .err
                .as_ref()
                .map(|ty| part(ty, own(false)))
                .transpose()?;
            Type::result(ok, err)
        }
        // The twin was followed to its definition already.
        Kind::Type(ty) => {
            return follow(resolve, ty, documented, depth);
        }
        Kind::Resource | Kind::Handle(_) => return Err(Wrong::NotAValue("a resource")),
        Kind::Future(_) => return Err(Wrong::NotAValue("a future")),
        Kind::Stream(_) => return Err(Wrong::NotAValue("a stream")),
        Kind::Map(..) => return Err(Wrong::NotAValue("a map")),
        Kind::FixedLengthList(..) => return Err(Wrong::NotAValue("a list of fixed length")),
        Kind::Unknown => return Err(Wrong::NotAValue("of unknown type")),
    })
}

fn follow(
    resolve: &Resolve,
    ty: &wit_parser::Type,
    documented: Option<(&Resolve, &wit_parser::TypeDef)>,
    depth: usize,
) -> Result<Type, Wrong> {
    match ty {
        wit_parser::Type::Id(id) => {
            // As an id again, so that the definition finds its twin.
            let twin = documented.and_then(|(resolve, def)| {
                let (id, _) = resolve
                    .types
                    .iter()
                    .find(|(_, other)| std::ptr::eq(*other, def))?;
                Some((resolve, wit_parser::Type::Id(id)))
            });
            definition(resolve, &resolve.types[*id], twin, depth + 1)
        }
        plain => convert(resolve, plain, None, depth + 1),
    }
}

/// The definition behind a type's aliases.
fn definition_of(
    resolve: &Resolve,
    ty: wit_parser::Type,
) -> Option<(&Resolve, &wit_parser::TypeDef)> {
    let wit_parser::Type::Id(mut id) = ty else {
        return None;
    };
    while let wit_parser::TypeDefKind::Type(wit_parser::Type::Id(next)) = resolve.types[id].kind {
        id = next;
    }
    Some((resolve, &resolve.types[id]))
}

fn text(docs: &wit_parser::Docs) -> String {
    docs.contents
        .as_deref()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The documentation that came with a component.
struct Docs {
    resolve: Option<Resolve>,
    interfaces: BTreeMap<String, InterfaceId>,
}

impl Docs {
    /// Reads [`WIT_SECTION`]. A section that does not decode documents nothing: it is not what runs.
    fn read(bytes: &[u8]) -> Self {
        let mut this = Self {
            resolve: None,
            interfaces: BTreeMap::new(),
        };
        let mut depth = 0u32;
        for payload in Parser::new(0).parse_all(bytes) {
            let Ok(payload) = payload else { break };
            match payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::CustomSection(section) if depth == 1 && section.name() == WIT_SECTION => {
                    if let Ok(DecodedWasm::WitPackage(resolve, _)) = guarded_decode(section.data())
                    {
                        let named = resolve.interfaces.iter().filter_map(|(id, _)| {
                            let name = resolve.id_of(id)?;
                            Some((names::without_version(&name).to_owned(), id))
                        });
                        this.interfaces = named.collect();
                        this.resolve = Some(resolve);
                    }
                }
                _ => {}
            }
        }
        this
    }

    fn interface(&self, name: &str) -> Option<(&Resolve, InterfaceId)> {
        let id = self.interfaces.get(names::without_version(name))?;
        Some((self.resolve.as_ref()?, *id))
    }
}
