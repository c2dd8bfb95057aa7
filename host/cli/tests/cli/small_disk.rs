//! A small file system for one home, which tests fill: in memory, in a mount namespace that ends with the test.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A small file system. The process `keeper` holds its mount namespace; /proc shows the root of that process.
pub(crate) struct SmallDisk {
    asks: ChildStdin,
    printed: BufReader<ChildStdout>,
    keeper: Child,
    at: PathBuf,
    _below: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a file system of this size, as in `12m`. `None` if neither root nor a user namespace may mount.
    pub(crate) fn mount(size: &str) -> Option<SmallDisk> {
        Self::by(&["--mount"], size)
            .or_else(|| Self::by(&["--user", "--map-root-user", "--mount"], size))
    }

    fn by(way: &[&str], size: &str) -> Option<SmallDisk> {
        /// Mounts the file system and holds it until its standard input is closed.
        const SCRIPT: &str = r#"mount -t tmpfs -o "$1" lattice-test "$2" && echo mounted &&
            while read way; do mount -o "remount,$way" "$2" && echo "$way"; done"#;
        let below = tempfile::tempdir().expect("a directory");
        let mut keeper = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(format!("size={size},mode=0700"))
            .arg(below.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let mut printed = BufReader::new(keeper.stdout.take().expect("piped"));
        printed.read_line(&mut said).expect("UTF-8");
        let root = PathBuf::from(format!("/proc/{}/root", keeper.id()));
        let inside = below.path().strip_prefix("/").expect("absolute");
        let disk = SmallDisk {
            asks: keeper.stdin.take().expect("piped"),
            printed,
            keeper,
            at: root.join(inside),
            _below: below,
        };
        (said == "mounted\n" && fs::read_dir(&disk.at).is_ok()).then_some(disk)
    }

    /// The directory of the home.
    pub(crate) fn home(&self) -> PathBuf {
        self.at.join("home")
    }

    /// Lets it be read alone, or be written again: `ro` or `rw`. Nobody may have a file open to write it.
    pub(crate) fn remount(&mut self, way: &str) {
        writeln!(self.asks, "{way}").expect("it reads");
        let mut said = String::new();
        self.printed.read_line(&mut said).expect("UTF-8");
        assert_eq!(said.trim(), way);
    }

    /// Fills the file system but for `but_bytes` bytes.
    pub(crate) fn fill(&self, but_bytes: u64) {
        let mut filler = File::create(self.filler()).expect("a file");
        let page = [0; 4096];
        let error = loop {
            if let Err(error) = filler.write_all(&page) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        let len = filler.metadata().expect("told").len();
        filler
            .set_len(len.saturating_sub(but_bytes))
            .expect("shorter");
    }

    /// Frees all space that [`SmallDisk::fill`] took.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("told").file_name();
        name.into_string().expect("UTF-8")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
