//! The enclosure: namespaces of processes, mounts and networks, which end with all that is in them when torture ends,
//! whatever ends it.
//!
//! The program inside is process 1 of its namespace, so the kernel ends all others after it, and removes mounts and
//! links. It ends when its standard input does, which is a pipe from the process that started it.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// Namespaces that a user with the rights makes.
const NAMESPACES: [&str; 7] = [
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=private",
];
/// What everybody else needs besides.
const AS_USER: [&str; 2] = ["--user", "--map-root-user"];

/// Starts a program in an enclosure. The enclosure ends when the program does, or the child's standard input is
/// closed.
///
/// # Errors
///
/// When this machine gives no namespaces.
pub(super) fn enter(program: &Path, arguments: &[String]) -> Result<Child> {
    let ways = [&NAMESPACES[..], &[&AS_USER[..], &NAMESPACES].concat()].map(<[&str]>::to_vec);
    let works = |way: &Vec<&str>| {
        let mut probe = Command::new("unshare");
        let probe = probe
            .args(way)
            .args(["mount", "-t", "tmpfs", "probe", "/mnt"]);
        let ended = probe.stdin(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    };
    let Some(way) = ways.into_iter().find(works) else {
        bail!("torture needs namespaces: run it as root, or allow user namespaces on this machine");
    };
    Command::new("unshare")
        .args(way)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start the enclosure")
}

/// Ends this process, and the enclosure with it, when whoever started it has ended.
pub(super) fn end_with_standard_input() {
    thread::spawn(|| {
        let mut bytes = [0; 64];
        while !matches!(io::stdin().read(&mut bytes), Ok(0) | Err(_)) {}
        eprintln!("torture was interrupted");
        std::process::exit(130);
    });
}

/// The processes in this enclosure, by their command lines, but for this one, those that have ended, and those of
/// `known`.
///
/// # Errors
///
/// When /proc cannot be read.
pub(super) fn others(known: &[u32]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if id == std::process::id() || known.contains(&id) {
            continue;
        }
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        // A process that has ended has no command line any more.
        if !line.is_empty() {
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::{Duration, Instant};

    /// A command line that no other process has.
    fn running(mark: &str) -> bool {
        let all = others(&[]).expect("/proc is there");
        all.iter()
            .any(|line| line.starts_with("sleep") && line.contains(mark))
    }

    #[test]
    fn nothing_is_left_of_an_enclosure_whose_owner_has_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = format!("600.{}", std::process::id());
        let script = format!(
            "mount -t tmpfs enclosure {0} && touch {0}/file && {{ setsid sleep {mark} & }} && cat >/dev/null",
            dir.path().display()
        );
        let mut enclosure =
            enter(Path::new("sh"), &["-c".into(), script]).expect("namespaces are given");
        let begun = Instant::now();
        while !running(&mark) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it does not start"
            );
            thread::sleep(Duration::from_millis(10));
        }
        drop(enclosure.stdin.take());
        enclosure.wait().expect("it ends");
        assert!(!running(&mark), "a process is left");
        let left = std::fs::read_dir(dir.path()).expect("a directory").count();
        assert_eq!(left, 0, "a file is left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("told");
        assert!(
            !mounts.contains(&dir.path().display().to_string()),
            "{mounts}"
        );
    }
}
