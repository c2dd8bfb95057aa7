//! A store on one node, and short ways to call it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use ed25519_dalek::SigningKey;
use lattice_format::{Call, ChainId, ComponentId, ComponentRef, Genesis, Lane, Limits};
use lattice_kernel::run::engine::CallEnd;
use lattice_kernel::{CallError, CreateError, Files, NewStore, Outcome, Store};
use lattice_runtime::values::{Value, cbor, text, wave};
use lattice_runtime::{Compiler, Schema, Wasm};
use tempfile::TempDir;

/// One engine for all tests: it reserves address space for every instance.
pub(crate) static WASM: LazyLock<Arc<Wasm>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap().keep();
    Arc::new(Wasm::open(&dir, Compiler::InProcess).unwrap())
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
}

/// Where `cargo xtask plugins` leaves its results.
pub(crate) fn built_path(name: &str) -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => root().join("target"),
    };
    target.join("plugins").join(format!("{name}.wasm"))
}

/// A component built from this tree.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let path = built_path(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run `cargo xtask plugins` first",
            path.display()
        )
    })
}

/// A component assembled from its text.
pub(crate) fn raw(name: &str) -> Vec<u8> {
    let path = root().join("tests/guests/raw").join(format!("{name}.wat"));
    wat::parse_file(&path).unwrap()
}

/// What a call came to, as people see it: the value, `refused: …`, or `trapped: …`.
pub(crate) type Seen = String;

pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) schema: Arc<Schema>,
    now_ms: u64,
    _dir: TempDir,
}

pub(crate) fn install(bytes: &[u8]) -> Arc<Schema> {
    WASM.install(bytes).unwrap()
}

/// An engine of a test's own, with its directory.
pub(crate) fn engine() -> (Arc<Wasm>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let wasm = Wasm::open(dir.path(), Compiler::InProcess).unwrap();
    (Arc::new(wasm), dir)
}

impl Node {
    pub(crate) fn new(app: &[u8]) -> Self {
        Self::with_limits(app, Limits::default())
    }

    pub(crate) fn with_limits(app: &[u8], limits: Limits) -> Self {
        Self::try_new(app, limits).unwrap()
    }

    pub(crate) fn try_new(app: &[u8], limits: Limits) -> Result<Self, CreateError> {
        Self::on(&WASM, app, limits)
    }

    /// A store on an engine that other tests do not use.
    pub(crate) fn on(wasm: &Arc<Wasm>, app: &[u8], limits: Limits) -> Result<Self, CreateError> {
        let system = wasm.install(&built("system")).unwrap();
        let schema = wasm.install(app).unwrap();
        let component = |id: ComponentId, name: &str| ComponentRef {
            id,
            name: name.into(),
        };
        let genesis = Genesis {
            system: component(system.component, "system"),
            app: Some(component(schema.component, "app")),
            system_params: Vec::new(),
            app_params: Vec::new(),
            limits,
            profile: lattice_runtime::profile::PROFILE,
            drift_ms: 60_000,
            order_rule: 1,
            root_rule: 1,
            recovery_keys: Vec::new(),
            encryption: 0,
            parent: None,
            finality_rule: 0,
        };
        let dir = tempfile::tempdir().unwrap();
        let spec = NewStore {
            genesis,
            admits: Vec::new(),
            chain: ChainId(1),
        };
        let key = SigningKey::from_bytes(&[7; 32]);
        let files = Files::in_dir(dir.path()).unwrap();
        let engine = Arc::clone(wasm);
        let now_ms = 1_800_000_000_000;
        let store = Store::create(files, engine, key, spec, now_ms)?;
        Ok(Self {
            store,
            schema,
            now_ms,
            _dir: dir,
        })
    }

    fn encode(
        &self,
        kind: lattice_kernel::run::engine::CallKind,
        name: &str,
        args: &[&str],
    ) -> Call {
        let found = self.schema.find(kind, name);
        let [(interface, function)] = found[..] else {
            panic!("{} functions are named {name}", found.len());
        };
        let values: Vec<Value> = function
            .param_types()
            .zip(args)
            .map(|(ty, arg)| match ty {
                lattice_runtime::values::Type::Bytes => Value::Bytes(arg.as_bytes().to_vec()),
                lattice_runtime::values::Type::String => Value::String((*arg).into()),
                ty => wave::parse(ty, arg).unwrap(),
            })
            .collect();
        Call {
            interface: interface.id.clone(),
            function: function.name.clone(),
            args: cbor::encode_all(function.param_types(), &values),
        }
    }

    /// Runs a call and leaves its intention, and with it its instance, open.
    pub(crate) fn call_open(&mut self, name: &str, args: &[&str]) -> Result<(), CallError> {
        let call = self.encode(lattice_kernel::run::engine::CallKind::Command, name, args);
        let told = self
            .store
            .call(Lane::App, vec![call], self.now_ms, ChainId(1))?;
        assert!(told.outcome.is_ok());
        Ok(())
    }

    pub(crate) fn try_call(&mut self, call: Call) -> Result<Outcome, CallError> {
        self.now_ms += 1;
        let told = self
            .store
            .call(Lane::App, vec![call], self.now_ms, ChainId(1))?;
        self.store.commit(self.now_ms).unwrap();
        Ok(told.outcome)
    }

    pub(crate) fn call(&mut self, name: &str, args: &[&str]) -> Seen {
        let call = self.encode(lattice_kernel::run::engine::CallKind::Command, name, args);
        let function = self
            .schema
            .function(&call.interface, &call.function)
            .unwrap()
            .clone();
        match self.try_call(call).unwrap() {
            Outcome::Ok(values) => shown(function.ok(), &values[0]),
            Outcome::Refused { error, .. } => refused(function.err(), &error),
            Outcome::Unauthorized { .. } => "unauthorized".into(),
            Outcome::Trapped { kind, .. } => format!("trapped: {kind}"),
        }
    }

    pub(crate) fn query(&self, name: &str, args: &[&str]) -> Seen {
        let call = self.encode(lattice_kernel::run::engine::CallKind::Query, name, args);
        let function = self
            .schema
            .function(&call.interface, &call.function)
            .unwrap();
        let fuel = Limits::default().fuel;
        match self
            .store
            .snapshot()
            .query(&call, Lane::App, fuel)
            .unwrap()
            .end
        {
            CallEnd::Ok(value) => shown(function.ok(), &value),
            CallEnd::Refused(error) => refused(function.err(), &error),
            CallEnd::Trapped(kind) => format!("trapped: {kind}"),
        }
    }
}

fn shown(ty: Option<&lattice_runtime::values::Type>, value: &[u8]) -> Seen {
    match ty {
        Some(ty) => text::render(ty, &cbor::decode(ty, value).unwrap()),
        None => {
            assert_eq!(value, cbor::NULL);
            String::new()
        }
    }
}

fn refused(ty: Option<&lattice_runtime::values::Type>, error: &[u8]) -> Seen {
    match ty.map(|ty| cbor::decode(ty, error)) {
        Some(Ok(value)) => format!("refused: {}", text::render(ty.unwrap(), &value)),
        _ => format!("refused: {}", String::from_utf8_lossy(error)),
    }
}
