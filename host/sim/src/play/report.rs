//! A run for people and programs: numbers as text and JSON, and a picture of how the nodes became equal.

use std::fmt::Write;

use serde_json::{Value, json as object};

use crate::play::scenario::Played;
use crate::world::{LinkStats, World};

/// Rows of links that the text shows; the rest is summed up.
const LINKS_SHOWN: usize = 20;
/// Size of the picture, in its own units.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 40.0;

fn total(world: &World) -> LinkStats {
    let links = world.stats().links.values();
    links.fold(LinkStats::default(), |sum, link| LinkStats {
        messages: sum.messages + link.messages,
        bytes: sum.bytes + link.bytes,
        entries: sum.entries + link.entries,
    })
}

/// The numbers of a scenario as a table.
pub fn table(played: &Played) -> String {
    let mut out = String::new();
    let Some(world) = &played.world else {
        return out;
    };
    // Writing to a String does not fail.
    let mut row = |name: &str, messages: u64, entries: u64, bytes: u64| {
        let _ = writeln!(out, "{name:<14} {messages:>10} {entries:>10} {bytes:>14}");
    };
    let stats = world.stats();
    for ((from, to), link) in stats.links.iter().take(LINKS_SHOWN) {
        let name = format!("{from} → {to}");
        row(&name, link.messages, link.entries, link.bytes);
    }
    let sum = total(world);
    row("all links", sum.messages, sum.entries, sum.bytes);
    let head = format!(
        "{:<14} {:>10} {:>10} {:>14}\n",
        "link", "messages", "entries", "bytes"
    );
    let mut out = head + out.as_str();
    let _ = writeln!(
        out,
        "{} nodes, {} calls ({} without effect), {} rounds, {} crashes, {} runs of late entries",
        world.node_count(),
        stats.calls,
        stats.refused,
        stats.rounds,
        stats.crashes,
        stats.runs
    );
    let spans: Vec<String> = played.converged_ms.iter().map(u64::to_string).collect();
    let _ = writeln!(
        out,
        "{} ms of virtual time; equal after (ms): {}; {} effects, hash {}",
        world.now_ms(),
        spans.join(", "),
        world.trace().count(),
        hex::encode(world.trace().hash())
    );
    out
}

/// The numbers of a scenario as one JSON document.
pub fn json(played: &Played) -> Value {
    let Some(world) = &played.world else {
        return object!({ "ok": played.failure.is_none(), "failure": played.failure });
    };
    let stats = world.stats();
    let links: Vec<Value> = stats
        .links
        .iter()
        .map(|((from, to), link)| {
            object!({
                "from": from.0,
                "to": to.0,
                "messages": link.messages,
                "entries": link.entries,
                "bytes": link.bytes,
            })
        })
        .collect();
    object!({
        "ok": played.failure.is_none(),
        "failure": played.failure,
        "printed": played.printed,
        "nodes": world.node_count(),
        "calls": stats.calls,
        "without_effect": stats.refused,
        "rounds": stats.rounds,
        "crashes": stats.crashes,
        "late_runs": stats.runs,
        "virtual_ms": world.now_ms(),
        "converged_ms": played.converged_ms,
        "effects": world.trace().count(),
        "hash": hex::encode(world.trace().hash()),
        "links": links,
    })
}

/// A picture of how equal the nodes were over time: the number of different states, and the entries of the node
/// with the fewest beside those of the one with the most.
pub fn svg(world: &World) -> String {
    let samples = &world.stats().samples;
    let end_ms = world.now_ms().max(1) as f64;
    let most = samples.iter().map(|s| s.most).max().unwrap_or(1).max(1) as f64;
    let states = samples.iter().map(|s| s.states).max().unwrap_or(1).max(1) as f64;
    let line = |value: &dyn Fn(usize) -> f64| {
        let points: Vec<String> = samples
            .iter()
            .enumerate()
            .map(|(index, sample)| {
                let x = MARGIN + (WIDTH - 2.0 * MARGIN) * sample.at_ms as f64 / end_ms;
                let y = HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * value(index);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        points.join(" ")
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let curves: [(&str, String); 3] = [
        ("#1b7f3b", line(&|i| samples[i].most as f64 / most)),
        ("#2b6cb0", line(&|i| samples[i].least as f64 / most)),
        ("#c53030", line(&|i| samples[i].states as f64 / states)),
    ];
    for (colour, points) in curves {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>"
        );
    }
    let labels = [
        ("#1b7f3b", format!("most entries (of {most})")),
        ("#2b6cb0", "fewest entries".to_owned()),
        ("#c53030", format!("different states (at most {states})")),
        ("#444", format!("{:.1} s of virtual time", end_ms / 1000.0)),
    ];
    for (number, (colour, text)) in labels.iter().enumerate() {
        let x = MARGIN + 185.0 * number as f64;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"20\" fill=\"{colour}\">{text}</text>"
        );
    }
    out.push_str("</svg>\n");
    out
}
