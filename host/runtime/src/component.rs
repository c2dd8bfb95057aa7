//! A component that is ready to run: its code, with its imports resolved and its exports found.

use std::collections::HashMap;
use std::sync::Arc;

use lattice_format::ComponentId;
use lattice_kernel::run::engine::{CallKind, HostFault};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use crate::governance;
use crate::host::Data;
use crate::instance_pool::{InstancePool, Loaded};
use crate::names;
use crate::pace::RunningGuests;
use crate::typed_calls::{self, TypedCall};
use crate::values::{Type, val};

/// A component with everything that does not change from instance to instance.
pub(crate) struct Prepared {
    /// The key of its instances in the pool.
    pub(crate) loaded: Loaded,
    /// Holds instances of it that are started, and takes those that were used.
    pub(crate) instance_pool: Arc<InstancePool>,
    /// Counts its calls that run now.
    pub(crate) pace: Arc<RunningGuests>,
    pub(crate) pre: InstancePre<Data>,
    /// The component's answers to governance's questions, if it can govern.
    pub(crate) governance: Option<governance::Indices>,
    /// Whether it imports WASI.
    pub(crate) wasi: bool,
    functions: HashMap<String, HashMap<String, Function>>,
}

/// One exported function that calls may reach.
pub(crate) struct Function {
    pub(crate) index: ComponentExportIndex,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Option<Type>,
    pub(crate) typed: Option<TypedCall>,
}

impl Prepared {
    /// Resolves the imports and exports of `component`.
    ///
    /// # Errors
    /// [`HostFault::Unusable`] when it imports what this host does not have.
    pub(crate) fn new(
        id: ComponentId,
        component: &Component,
        linker: &Linker<Data>,
        instance_pool: Arc<InstancePool>,
        pace: Arc<RunningGuests>,
    ) -> Result<Self, HostFault> {
        let unusable = |error: wasmtime::Error| HostFault::Unusable {
            component: id,
            reason: format!("{error:#}"),
        };
        let pre = linker.instantiate_pre(component).map_err(unusable)?;
        let governance = governance::Indices::new(&pre).ok();
        let ty = component.component_type();
        let engine = component.engine();
        let wasi = ty.imports(engine).any(|(name, _)| names::is_wasi(name));
        let mut functions = HashMap::new();
        for (name, item) in ty.exports(engine) {
            let ComponentItem::ComponentInstance(interface) = item.ty else {
                continue;
            };
            if names::kind(name).is_none() {
                continue;
            }
            let Some(parent) = component.get_export_index(None, name) else {
                continue;
            };
            let mut found = HashMap::new();
            for (function, item) in interface.exports(engine) {
                let ComponentItem::ComponentFunc(ty) = item.ty else {
                    continue;
                };
                let Some(index) = component.get_export_index(Some(&parent), function) else {
                    continue;
                };
                // A type that cannot be part of a call was refused when the component was
                // installed; here such a function is one that does not exist.
                let params = ty.params().map(|(_, ty)| val::from_engine(&ty)).collect();
                let result = ty.results().map(|ty| val::from_engine(&ty)).next();
                if let (Some::<Vec<_>>(params), None | Some(Some(_))) = (params, &result) {
                    let result = result.flatten();
                    let typed = typed_calls::find(&params, result.as_ref());
                    let function_ = Function {
                        index,
                        params,
                        result,
                        typed,
                    };
                    found.insert(function.to_owned(), function_);
                }
            }
            functions.insert(names::without_version(name).to_owned(), found);
        }
        Ok(Self {
            loaded: instance_pool.loaded(),
            instance_pool,
            pace,
            pre,
            governance,
            wasi,
            functions,
        })
    }

    /// The function that a call names; `None` if the component does not have it.
    pub(crate) fn function(
        &self,
        kind: CallKind,
        interface: &str,
        function: &str,
    ) -> Option<&Function> {
        if names::kind(interface) != Some(kind) {
            return None;
        }
        self.functions.get(interface)?.get(function)
    }
}
