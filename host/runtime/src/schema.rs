//! What a component offers and needs, in plain values.

use lattice_format::ComponentId;
use lattice_kernel::run::engine::CallKind;

use crate::names;
use crate::values::Type;

/// What a component offers and needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The component's id: the BLAKE3 hash of its bytes.
    pub component: ComponentId,
    /// Its size in bytes.
    pub bytes: usize,
    /// The interfaces whose functions calls may reach, by id.
    pub interfaces: Vec<Interface>,
    /// Full names of what it imports.
    pub imports: Vec<String>,
    /// Full names of what it exports that no call reaches.
    pub ignored: Vec<String>,
    /// Whether it can govern a store: exports `lattice:system/governance`.
    pub governs: bool,
}

/// An exported interface of commands, of queries, or the lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its full id without version, as calls name it: `lattice:kv/commands`.
    pub id: String,
    /// Its version, if it has one.
    pub version: Option<String>,
    /// Which calls reach its functions.
    pub kind: CallKind,
    /// Its documentation.
    pub docs: String,
    /// Its functions, in the order of their declaration.
    pub functions: Vec<Function>,
}

/// An exported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its documentation.
    pub docs: String,
    /// Its parameters.
    pub params: Vec<Param>,
    /// What it returns, if anything.
    pub result: Option<Type>,
}

/// A parameter of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

impl Schema {
    /// The functions of the given name that such calls reach, with their interfaces: several, where
    /// two interfaces have one. `name` is a function's name, or `interface.name` with the full id of
    /// an interface, or any end of it that begins at a part: `kv/commands.put`, `commands.put`.
    pub fn find<'a>(&'a self, kind: CallKind, name: &str) -> Vec<(&'a Interface, &'a Function)> {
        let (interface, name) = match name.rsplit_once('.') {
            Some((interface, name)) => (Some(names::without_version(interface)), name),
            None => (None, name),
        };
        let fits = |id: &str| match interface {
            None => true,
            Some(asked) => id
                .strip_suffix(asked)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', ':'])),
        };
        self.interfaces
            .iter()
            .filter(|interface| interface.kind == kind && fits(&interface.id))
            .filter_map(|interface| Some((interface, interface.function(name)?)))
            .collect()
    }

    /// The interface with this id, without version.
    pub fn interface(&self, id: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.id == id)
    }

    /// The function that a call names.
    pub fn function(&self, interface: &str, function: &str) -> Option<&Function> {
        self.interface(interface)?.function(function)
    }
}

impl Interface {
    /// The function with this name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name)
    }
}

impl Function {
    /// The type of what a call returns when it succeeds: that of the result, or of its `ok`.
    pub fn ok(&self) -> Option<&Type> {
        match self.result.as_ref()? {
            Type::Result { ok, .. } => ok.as_deref(),
            ty => Some(ty),
        }
    }

    /// The type of the error with which a call refuses, if it can.
    pub fn err(&self) -> Option<&Type> {
        match self.result.as_ref()? {
            Type::Result { err, .. } => err.as_deref(),
            _ => None,
        }
    }

    /// The types of the parameters.
    pub fn param_types(&self) -> impl ExactSizeIterator<Item = &Type> {
        self.params.iter().map(|param| &param.ty)
    }
}

/// The WIT text of the function: `put: func(key: string, value: list<u8>)`.
impl std::fmt::Display for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: func(", self.name)?;
        for (i, param) in self.params.iter().enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            write!(f, "{separator}{}: {}", param.name, param.ty)?;
        }
        f.write_str(")")?;
        match &self.result {
            Some(ty) => write!(f, " -> {ty}"),
            None => Ok(()),
        }
    }
}
