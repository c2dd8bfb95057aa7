//! The pictures of the documents: each SVG in docs/ is drawn from a text beside it.
//!
//! Graphviz draws the pictures, and each of its versions draws them differently. So people review the text, and a
//! picture holds the digest of its text. Tidy compares digests and needs no Graphviz.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{setup, shell};

/// The suffix of a file that a picture is drawn from.
pub(crate) const SOURCE: &str = ".dot";

/// Colours for light and dark pages. A picture has its own background, so that it can be read on a page whose theme
/// differs from the system's.
const STYLE: &str = "
  .graph > polygon { fill: #ffffff; stroke: none; }
  text { fill: #1f2328; }
  .cluster > polygon, .cluster > path { fill: #f6f8fa; stroke: #d0d7de; }
  .node > polygon, .node > path { fill: #ffffff; stroke: #57606a; }
  .node.log > path { fill: #ddf4ff; stroke: #0969da; }
  .node.code > path { fill: #fff8c5; stroke: #9a6700; }
  .node.state > path { fill: #dafbe1; stroke: #1a7f37; }
  .edge > path { stroke: #57606a; }
  .edge > polygon { fill: #57606a; stroke: #57606a; }
  .edge.sync > path { stroke: #0969da; stroke-width: 2; }
  .edge.sync > polygon { fill: #0969da; stroke: #0969da; }
  @media (prefers-color-scheme: dark) {
    .graph > polygon { fill: #0d1117; }
    text { fill: #e6edf3; }
    .cluster > polygon, .cluster > path { fill: #161b22; stroke: #30363d; }
    .node > polygon, .node > path { fill: #0d1117; stroke: #8b949e; }
    .node.log > path { fill: #0c2d6b; stroke: #58a6ff; }
    .node.code > path { fill: #4b2900; stroke: #d29922; }
    .node.state > path { fill: #033a16; stroke: #3fb950; }
    .edge > path { stroke: #8b949e; }
    .edge > polygon { fill: #8b949e; stroke: #8b949e; }
    .edge.sync > path { stroke: #58a6ff; }
    .edge.sync > polygon { fill: #58a6ff; stroke: #58a6ff; }
  }
";

/// Draws every picture of the tree at `root` whose text has changed.
///
/// # Errors
///
/// When a text cannot be drawn, or a file cannot be read or written.
pub fn draw(root: &Path) -> Result<()> {
    let docs = root.join("docs");
    for entry in std::fs::read_dir(&docs).context("cannot list docs/")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(stem) = name.strip_suffix(SOURCE) else {
            continue;
        };
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        let picture = docs.join(format!("{stem}.svg"));
        let is_current =
            std::fs::read_to_string(&picture).is_ok_and(|svg| is_drawn_from(&svg, &text));
        if is_current {
            continue;
        }
        setup::diagrams()?;
        let drawn = shell::read(Command::new("dot").arg("-Tsvg").arg(&path))?;
        let svg =
            styled(&drawn, &text).with_context(|| format!("Graphviz drew no SVG of {name}"))?;
        std::fs::write(&picture, svg)
            .with_context(|| format!("cannot write {}", picture.display()))?;
        eprintln!("    {stem}.svg");
    }
    Ok(())
}

/// Whether a picture was drawn from this text, in the current style.
pub(crate) fn is_drawn_from(svg: &str, text: &str) -> bool {
    svg.contains(&digest(text))
}

/// The digest of a text and of the style that it is drawn in.
fn digest(text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(STYLE.as_bytes()).update(text.as_bytes());
    format!("blake3:{}", hasher.finalize())
}

/// Puts the style and the digest into what Graphviz drew, and leaves out its version and the document type.
fn styled(drawn: &str, text: &str) -> Option<String> {
    let svg = &drawn[drawn.find("<svg")?..];
    let (opening, rest) = svg.split_at(svg.find('>')? + 1);
    let digest = digest(text);
    Some(format!(
        "{opening}\n<!-- drawn by `cargo xtask diagrams`, from {digest} -->\n<style>{STYLE}</style>{rest}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_tells_the_text_that_it_was_drawn_from() {
        let drawn =
            "<?xml version=\"1.0\"?>\n<!-- version 9 -->\n<svg width=\"8pt\"\n>\n<g/>\n</svg>\n";
        let svg = styled(drawn, "digraph {}").expect("there is an svg");
        assert!(
            svg.starts_with("<svg width") && svg.ends_with("<g/>\n</svg>\n"),
            "{svg}"
        );
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert!(is_drawn_from(&svg, "digraph {}"));
        assert!(!is_drawn_from(&svg, "digraph { a }"));
        assert_eq!(styled("no picture", "digraph {}"), None);
    }
}
