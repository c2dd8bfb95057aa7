//! Bytes on disk of a store of single-call entries, by kind of row.
//!
//! This is no figure with a target, but a table: the bytes of the rows of each redb table, the bytes of its pages,
//! and the bytes of the files, by written blocks and by length. These two differ because redb doubles a file as it
//! grows, and does not write most of what it has not used.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use lattice_runtime::{Compiler, Wasm};
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableHandle, UntypedTableHandle};

use crate::in_process::{Writer, component};
use crate::settings::Settings;

/// Makes a store of `settings.entries` entries of one `put` of 100 bytes each, every one in a commit of its own,
/// and prints what is on its disk.
///
/// # Errors
/// When the store or a component fails.
pub(crate) fn print(settings: &Settings) -> Result<()> {
    let directory = settings.directory()?;
    let engine = Wasm::open(&directory.path().join("components"), Compiler::InProcess)?;
    let kv = engine.install(&component(settings, "kv")?)?;
    let system = engine.install(&component(settings, "system")?)?;
    let engine = Arc::new(engine);
    let store = directory.path().join("store");
    let mut writer = Writer::create(&store, &engine, &kv, system.component)?;
    let started = Instant::now();
    for _ in 0..settings.entries {
        writer.put()?;
        writer.commit()?;
    }
    let took = started.elapsed();
    writer.close()?;
    let entries = settings.entries as f64;
    println!("| file | table | rows | bytes of rows | bytes of pages |");
    println!("|---|---|---|---|---|");
    let (mut blocks, mut lengths) = (0, 0);
    for file in files(&store)? {
        let name = file.strip_prefix(&store)?.display().to_string();
        let metadata = file.metadata()?;
        blocks += metadata.blocks() * 512;
        lengths += metadata.len();
        for table in tables(&file)? {
            let pages = table.pages as f64 / entries;
            println!(
                "| {name} | {} | {} | {:.1} | {pages:.1} |",
                table.name,
                table.rows,
                table.stored as f64 / entries
            );
        }
    }
    println!(
        "\n{} entries, {:.0} µs each: {:.0} bytes an entry are written on disk, {:.0} by the length of the files",
        settings.entries,
        took.as_secs_f64() * 1e6 / entries,
        blocks as f64 / entries,
        lengths as f64 / entries
    );
    Ok(())
}

/// The size of one redb table.
struct Table {
    name: String,
    rows: u64,
    /// Bytes of keys and values.
    stored: u64,
    /// Bytes of pages.
    pages: u64,
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn tables(file: &Path) -> Result<Vec<Table>> {
    let db = Database::open(file).with_context(|| format!("{}", file.display()))?;
    let read = db.begin_read()?;
    let mut by_name = BTreeMap::new();
    let handles: Vec<UntypedTableHandle> = read.list_tables()?.collect();
    for handle in handles {
        let name = handle.name().to_owned();
        let table = read.open_untyped_table(handle)?;
        let stats = table.stats()?;
        by_name.insert(
            name.clone(),
            Table {
                name,
                rows: table.len()?,
                stored: stats.stored_bytes(),
                pages: stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes(),
            },
        );
    }
    Ok(by_name.into_values().collect())
}
