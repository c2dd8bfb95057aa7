//! Raw limits: what the machine itself can do, measured in the same run and place as the figure.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::workload::{VALUE_BYTES, value};

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

/// Rows of one commit when a raw file is filled.
const FILL_ROWS: u64 = 1000;

/// A redb file to which rows are added durably, and nothing else is done.
pub(crate) struct RawFile {
    database: Database,
    next: u64,
}

impl RawFile {
    /// Makes a file with one row.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(path: &Path) -> Result<RawFile> {
        let database = Database::create(path).with_context(|| format!("{}", path.display()))?;
        let mut file = RawFile { database, next: 0 };
        // The first commit also makes the table.
        file.commit(1)?;
        Ok(file)
    }

    /// Makes one durable commit of `rows` fresh rows with scattered keys. Returns how long it took.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn commit(&mut self, rows: u64) -> Result<Duration> {
        let values: Vec<_> = (self.next..self.next + rows)
            .map(|i| value(i, VALUE_BYTES))
            .collect();
        let started = Instant::now();
        let writing = self.database.begin_write()?;
        {
            let mut table = writing.open_table(ROWS)?;
            for (i, value) in (self.next..).zip(&values) {
                table.insert(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), value.as_slice())?;
            }
        }
        writing.commit()?;
        self.next += rows;
        Ok(started.elapsed())
    }

    /// Makes one durable commit of these rows, with ascending keys. Returns how long it took.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn append(&mut self, rows: &[&[u8]]) -> Result<Duration> {
        let started = Instant::now();
        let writing = self.database.begin_write()?;
        {
            let mut table = writing.open_table(ROWS)?;
            for (i, row) in (self.next..).zip(rows) {
                table.insert(i, row)?;
            }
        }
        writing.commit()?;
        self.next += rows.len() as u64;
        Ok(started.elapsed())
    }
}

/// A UDP socket that echoes datagrams. Its answers take as long as those of another process of this machine.
pub(crate) struct Echo {
    near: UdpSocket,
}

impl Echo {
    /// Starts an echo on a thread of its own, which ends with this process.
    ///
    /// # Errors
    /// When there are no sockets or threads.
    pub(crate) fn start() -> Result<Echo> {
        let far = UdpSocket::bind("127.0.0.1:0")?;
        let near = UdpSocket::bind("127.0.0.1:0")?;
        near.connect(far.local_addr()?)?;
        near.set_read_timeout(Some(Duration::from_secs(1)))?;
        std::thread::Builder::new()
            .name("echo".into())
            .spawn(move || {
                let mut buffer = [0; 1500];
                while let Ok((len, from)) = far.recv_from(&mut buffer) {
                    // The other end notices when a datagram is lost.
                    let _ = far.send_to(&buffer[..len], from);
                }
            })?;
        Ok(Echo { near })
    }

    /// Sends a datagram as large as a small entry and waits for its echo. Returns how long that took.
    ///
    /// # Errors
    /// When it is lost.
    pub(crate) fn round_trip(&self) -> Result<Duration> {
        let mut buffer = [7; 500];
        let started = Instant::now();
        self.near.send(&buffer)?;
        self.near.recv(&mut buffer)?;
        Ok(started.elapsed())
    }
}

/// The first argument of a child that fills a file.
const FILL: &str = "raw-fill";
/// The first argument of a child that opens a file.
const OPEN: &str = "raw-open";

/// Fills a redb file in a child process: `rows` rows, then `tail` durable commits of one row. Then the
/// process either closes the file or is killed.
///
/// # Errors
/// When the child fails.
pub(crate) fn fill(path: &Path, rows: u64, tail: u64, end: End) -> Result<()> {
    let mut child = Process(
        Command::new(std::env::current_exe()?)
            .arg(FILL)
            .arg(path)
            .args([rows.to_string(), tail.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    child.line().context("the child that fills a raw file")?;
    match end {
        End::Clean => {
            drop(child.0.stdin.take());
            ensure!(
                child.0.wait()?.success(),
                "the child that fills a raw file failed"
            );
        }
        End::Killed => child.0.kill()?,
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Killed,
}

/// How long a fresh process takes, from its spawn, to open a redb file and print one row.
///
/// # Errors
/// When the child fails.
pub(crate) fn open(path: &Path) -> Result<Duration> {
    let started = Instant::now();
    let mut child = Process(
        Command::new(std::env::current_exe()?)
            .arg(OPEN)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    child.line().context("the child that opens a raw file")?;
    Ok(started.elapsed())
}

/// A child process that does not outlive its handle.
struct Process(Child);

impl Process {
    fn line(&mut self) -> Result<()> {
        let output = self.0.stdout.as_mut().context("the output is not piped")?;
        let mut line = String::new();
        ensure!(
            BufReader::new(output).read_line(&mut line)? > 0,
            "it said nothing"
        );
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The call fails when the process has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does the work of a child process, if this process is one.
pub(crate) fn child() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [FILL, path, rows, tail] => fill_here(Path::new(path), rows, tail),
        [OPEN, path] => open_here(Path::new(path)),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn fill_here(path: &Path, rows: &str, tail: &str) -> Result<()> {
    let (rows, tail): (u64, u64) = (rows.parse()?, tail.parse()?);
    let mut file = RawFile::create(path)?;
    while file.next < rows {
        file.commit(FILL_ROWS.min(rows - file.next))?;
    }
    for _ in 0..tail {
        file.commit(1)?;
    }
    say("filled")?;
    // Waits until the parent closes standard input, or kills this process.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn open_here(path: &Path) -> Result<()> {
    let database = Database::open(path)?;
    let table = database.begin_read()?.open_table(ROWS)?;
    let row = table.get(0)?.context("the first row is missing")?;
    say(&row.value().len().to_string())
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_files_keep_what_they_took() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("raw.redb");
        let mut file = RawFile::create(&path).expect("it is made");
        file.commit(10).expect("it is written");
        drop(file);
        open_here(&path).expect("it opens");
    }

    #[test]
    fn an_echo_answers() {
        let echo = Echo::start().expect("it starts");
        assert!(echo.round_trip().expect("it answers") > Duration::ZERO);
    }
}
