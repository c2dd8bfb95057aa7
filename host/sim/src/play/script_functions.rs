//! Functions of scripts beyond those that act on one node: how nodes are connected, calls that nobody waits for,
//! chance, sums, children and invites.

use std::rc::Rc;

use lattice_kernel::run::engine::Role;
use lattice_kernel::{LocalSeq, Stored};
use lattice_testing::Dice;
use rhai::{Dynamic, Engine};

use crate::play::scenario::{Said, Shared, govern, node, role, span, texts, with, wrong};
use crate::world::act::Act;
use crate::world::node::NodeId;
use crate::world::{Topology, World};

/// Registers all of them.
pub(crate) fn register(engine: &mut Engine, stage: &Shared) {
    let s = Rc::clone(stage);
    engine.register_fn("network", move |name: &str| network(&s, name, 1));
    let s = Rc::clone(stage);
    engine.register_fn("network", move |name: &str, others: i64| {
        network(&s, name, others)
    });
    let s = Rc::clone(stage);
    engine.register_fn(
        "setting",
        move |name: &str, default: Dynamic| -> Said<Dynamic> {
            let stage = s.borrow();
            let Some(text) = stage.values.get(name) else {
                return Ok(default);
            };
            match (default.is_int(), text.parse::<i64>()) {
                (true, Ok(number)) => Ok(number.into()),
                (true, Err(error)) => wrong(format!("{name}={text}: {error}")),
                (false, _) => Ok(text.clone().into()),
            }
        },
    );
    let s = Rc::clone(stage);
    engine.register_fn("chance", move |below: i64| -> Said<i64> {
        let mut stage = s.borrow_mut();
        let seed = stage.settings.seed;
        // Another stream of numbers than that of the world.
        let dice = stage.dice.get_or_insert(Dice(seed ^ 0x2545_f491_4f6c_dd1d));
        match u64::try_from(below) {
            Ok(below) if below > 0 => Ok(dice.below(below) as i64),
            _ => wrong(format!("nothing is below {below}")),
        }
    });
    macro_rules! post_with {
        ([$($arg:ident),*]) => {
            let s = Rc::clone(stage);
            engine.register_fn("post", move |n: i64, f: &str $(, $arg: Dynamic)*| {
                post(&s, n, f, vec![$($arg),*])
            });
        };
    }
    post_with!([]);
    post_with!([a]);
    post_with!([a, b]);
    post_with!([a, b, c]);
    let s = Rc::clone(stage);
    engine.register_fn("join_all", move || {
        with(&s, |w| {
            for whom in (1..w.node_count()).map(NodeId) {
                let (by, role) = (NodeId(0), Role::Writer);
                w.act(Act::Admit { by, whom, role });
            }
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("bytes_held", move |n: i64| {
        with(&s, |w| Ok(bytes_held(w, node(w, n)?)))
    });
    let s = Rc::clone(stage);
    engine.register_fn("rounds", move || with(&s, |w| Ok(w.stats().rounds as i64)));
    let s = Rc::clone(stage);
    engine.register_fn("entries_sent", move || {
        with(&s, |w| {
            let entries = w.stats().links.values().map(|link| link.entries);
            Ok(entries.sum::<u64>() as i64)
        })
    });
    register_children(engine, stage);
}

/// Registers the functions for children and invites.
fn register_children(engine: &mut Engine, stage: &Shared) {
    let s = Rc::clone(stage);
    engine.register_fn("child", move |by: i64| {
        with(&s, |w| {
            let by = node(w, by)?;
            w.act(Act::Child { by });
            w.run_for(10);
            match w.child() {
                Some(_) => Ok(()),
                None => wrong(format!("{by} may not make a child")),
            }
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("in_child", move |on: bool| s.borrow_mut().in_child = on);
    let s = Rc::clone(stage);
    engine.register_fn(
        "invite",
        move |by: i64, name: &str, uses: i64, lasts_ms: i64| {
            govern(&s, |w| {
                if !w.code.has_invites() {
                    return wrong("only the governance of components has invites: choose a plugin");
                }
                let Ok(uses) = u32::try_from(uses) else {
                    return wrong(format!("{uses} is no number of uses"));
                };
                Ok(Act::Invite {
                    by: node(w, by)?,
                    role: role(name)?,
                    uses,
                    lasts_ms: span(lasts_ms)?,
                })
            })
        },
    );
    let s = Rc::clone(stage);
    engine.register_fn("claim", move |whom: i64, via: i64| {
        govern(&s, |w| {
            let (whom, via) = (node(w, whom)?, node(w, via)?);
            Ok(Act::Claim { whom, via })
        })
    });
}

/// How machines that are there at the beginning are connected.
fn network(stage: &Shared, name: &str, others: i64) -> Said<()> {
    let mut stage = stage.borrow_mut();
    if stage.world.is_some() {
        return wrong("how nodes are connected must be said before anything is done with them");
    }
    stage.settings.topology = match (name, u16::try_from(others)) {
        ("full", _) => Topology::Full,
        ("star", _) => Topology::Star,
        ("ring", _) => Topology::Ring,
        ("random", Ok(others)) => Topology::Random(others),
        _ => {
            return wrong(format!(
                "{name} is no network: full, star, ring, or random with a number of others"
            ));
        }
    };
    Ok(())
}

/// Calls a command on a node. Nobody waits for what becomes of it; a machine that is off forgets it.
fn post(stage: &Shared, n: i64, name: &str, args: Vec<Dynamic>) -> Said<()> {
    with(stage, |w| {
        let by = node(w, n)?;
        match w.code.call(name, &texts(args)) {
            Ok(call) => w.act(Act::Call {
                by,
                calls: vec![call],
            }),
            Err(error) => return wrong(error.to_string()),
        }
        Ok(())
    })
}

/// Headers, signatures and bodies that a node holds, in bytes.
fn bytes_held(world: &World, n: NodeId) -> i64 {
    let entries = world
        .snapshot(n)
        .and_then(|s| s.entries_from(LocalSeq(0), usize::MAX).ok());
    let size = |entry: &Stored| {
        let body = entry.body.as_ref().map_or(0, |body| body.len());
        entry.header.signed().bytes.len() + lattice_format::Signature::LEN + body
    };
    entries.unwrap_or_default().iter().map(size).sum::<usize>() as i64
}
