//! Whether this host has what a component imports, and what is missing if not.

use std::sync::LazyLock;

use wit_parser::{
    Function, InterfaceId, Resolve, SourceMap, Type, TypeDefKind, WorldId, WorldItem,
};

use crate::names;

/// The contract as it is published, so that a difference is told from the source.
static CONTRACT: LazyLock<Resolve> = LazyLock::new(|| {
    let mut files = SourceMap::default();
    for (name, text) in [
        ("types.wit", include_str!("../../../wit/types.wit")),
        ("state.wit", include_str!("../../../wit/state.wit")),
        ("context.wit", include_str!("../../../wit/context.wit")),
        ("blobs.wit", include_str!("../../../wit/blobs.wit")),
        ("lifecycle.wit", include_str!("../../../wit/lifecycle.wit")),
        ("world.wit", include_str!("../../../wit/world.wit")),
    ] {
        files.push_str(name, text);
    }
    let group = files.parse().map_err(|(_, error)| error);
    let group = group.expect("the contract was parsed when this crate was built");
    let mut resolve = Resolve::default();
    resolve
        .push_group(group)
        .expect("the contract was resolved when this crate was built");
    resolve
});

/// Interfaces of the contract that a component may import.
const STORE: [&str; 4] = ["types", "state", "context", "blobs"];

/// Interfaces of WASI 0.2 that the virtual one has.
const WASI: [&str; 22] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:clocks/timezone",
    "wasi:cli/run",
];

/// What a component imports that this host does not have, one line each: what, and what there is.
pub(crate) fn missing(resolve: &Resolve, world: WorldId) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, item) in &resolve.worlds[world].imports {
        let name = resolve.name_world_key(key);
        match item {
            WorldItem::Interface { id, .. } => interface(&mut lines, resolve, &name, *id),
            WorldItem::Function(_) => lines.push(format!(
                "{name}: a function by itself; the host has only interfaces"
            )),
            // Types by themselves need nothing of the host.
            WorldItem::Type { .. } => {}
        }
    }
    lines
}

fn interface(lines: &mut Vec<String>, resolve: &Resolve, name: &str, id: InterfaceId) {
    let plain = names::without_version(name);
    let version = name.split_once('@').map_or("", |(_, version)| version);
    if names::is_wasi(plain) {
        let known = WASI[..20].contains(&plain);
        match (known, version.starts_with("0.2.")) {
            (true, true) => {}
            (true, false) => lines.push(format!("{name}: the host has version 0.2 of it")),
            (false, _) => lines.push(format!(
                "{name}: the virtual WASI has clocks, random, io, cli and an empty filesystem; no sockets, no http"
            )),
        }
        return;
    }
    let Some(short) = plain
        .strip_prefix("lattice:store/")
        .filter(|short| STORE.contains(short))
    else {
        lines.push(format!(
            "{name}: unknown; a component may import lattice:store ({}) and WASI 0.2",
            STORE.join(", ")
        ));
        return;
    };
    if !version.starts_with("0.1.") {
        lines.push(format!("{name}: the host has version 0.1.0"));
        return;
    }
    let contract = &*CONTRACT;
    let ours = contract
        .interfaces
        .iter()
        .find(|(_, item)| item.name.as_deref() == Some(short));
    let ours = &ours
        .expect("the contract has the interfaces of this list")
        .1
        .functions;
    for (function, item) in &resolve.interfaces[id].functions {
        match ours.get(function) {
            None => lines.push(format!("{name} {function}: unknown; the host has {}", {
                let names: Vec<_> = ours.keys().map(String::as_str).collect();
                names.join(", ")
            })),
            Some(our) => {
                let (theirs, our) = (signature(resolve, item), signature(contract, our));
                if theirs != our {
                    lines.push(format!(
                        "{name} {function}: imported as {theirs}; the host has {our}"
                    ));
                }
            }
        }
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<_> = function
        .params
        .iter()
        .map(|param| format!("{}: {}", param.name, shape(resolve, &param.ty)))
        .collect();
    let result = function
        .result
        .as_ref()
        .map_or(String::new(), |ty| format!(" -> {}", shape(resolve, ty)));
    format!("func({}){result}", params.join(", "))
}

/// The structure of a type, names of types aside.
fn shape(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else {
        return format!("{ty:?}").to_lowercase();
    };
    let of = |ty: &Type| shape(resolve, ty);
    let maybe = |ty: &Option<Type>| ty.as_ref().map_or("_".into(), of);
    match &resolve.types[*id].kind {
        TypeDefKind::Type(ty) => of(ty),
        TypeDefKind::List(ty) => format!("list<{}>", of(ty)),
        TypeDefKind::Option(ty) => format!("option<{}>", of(ty)),
        TypeDefKind::Result(ty) => format!("result<{}, {}>", maybe(&ty.ok), maybe(&ty.err)),
        TypeDefKind::Tuple(ty) => {
            format!(
                "tuple<{}>",
                ty.types.iter().map(of).collect::<Vec<_>>().join(", ")
            )
        }
        TypeDefKind::Record(ty) => {
            let fields = ty
                .fields
                .iter()
                .map(|field| format!("{}: {}", field.name, of(&field.ty)));
            format!("record {{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.as_str().to_owned(),
    }
}
