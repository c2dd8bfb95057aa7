//! The disk of a machine: a file system of its own, which fills, can only be read for a while, or breaks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The size of a disk. A daemon's examination is content with as much free space.
const BYTES: u64 = 1 << 30;
/// How long programs may still use a disk that is remounted or unmounted.
const BUSY_MAX: Duration = Duration::from_secs(20);

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// Memory: full when its size is what is used.
    Memory,
    /// ext4 in a file, which can only be read from the first error on until it is mounted anew.
    Image,
}

/// A mounted disk.
#[derive(Debug)]
pub(super) struct Disk {
    make: Make,
    at: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Makes a disk and mounts it at `at`. Its content lies beside it, if it is an image.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(super) fn mount(make: Make, at: &Path) -> Result<Disk> {
        fs::create_dir_all(at)?;
        let disk = Disk {
            make,
            at: at.to_path_buf(),
            image: at.with_extension("image"),
        };
        match make {
            Make::Memory => {
                mount(
                    &[
                        "-t",
                        "tmpfs",
                        "-o",
                        &format!("size={BYTES},mode=0700"),
                        "torture",
                    ],
                    at,
                )?;
            }
            Make::Image => {
                File::create(&disk.image)?.set_len(BYTES)?;
                // Root's share is for everybody, and nothing is left to be initialised later.
                let mut mkfs = Command::new("mkfs.ext4");
                mkfs.args([
                    "-q",
                    "-m",
                    "0",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0",
                ]);
                shell::run(mkfs.arg(&disk.image))?;
                disk.mount_image()?;
            }
        }
        Ok(disk)
    }

    /// Whether this machine can make disks of that kind.
    pub(super) fn is_possible(make: Make) -> bool {
        match make {
            Make::Memory => true,
            // A loop device, which only root of the machine has.
            Make::Image => {
                let free = shell::output(Command::new("losetup").arg("--find"));
                shell::is_installed("mkfs.ext4")
                    && free.is_ok_and(|output| output.status.success())
                    && Path::new("/sys/fs/ext4").is_dir()
                    && fs::read_to_string("/proc/self/uid_map")
                        .is_ok_and(|map| map.split_whitespace().nth(1) == Some("0"))
            }
        }
    }

    /// Whether it breaks at an error.
    pub(super) fn make(&self) -> Make {
        self.make
    }

    fn mount_image(&self) -> Result<()> {
        let image = self.image.display().to_string();
        mount(
            &["-t", "ext4", "-o", "loop,errors=remount-ro", &image],
            &self.at,
        )
    }

    /// Fills the disk: not a byte is free.
    ///
    /// # Errors
    ///
    /// When the system refuses for another reason than the fullness.
    pub(super) fn fill(&self) -> Result<()> {
        match self.make {
            // What is written meanwhile makes it larger than what was asked for.
            Make::Memory => patient(|| {
                let stat = rustix::fs::statvfs(&self.at)?;
                let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
                mount(&["-o", &format!("remount,size={used}")], &self.at)
            }),
            Make::Image => {
                let filler = File::create(self.filler())?;
                let (mut len, mut step) = (0, BYTES);
                while step >= 4096 {
                    let flags = rustix::fs::FallocateFlags::empty();
                    match rustix::fs::fallocate(&filler, flags, len, step) {
                        Ok(()) => len += step,
                        Err(rustix::io::Errno::NOSPC) => step /= 2,
                        Err(error) => return Err(error).context("cannot fill a disk"),
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends what [`Disk::fill`] did.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(super) fn empty(&self) -> Result<()> {
        match self.make {
            Make::Memory => mount(&["-o", &format!("remount,size={BYTES}")], &self.at),
            Make::Image => fs::remove_file(self.filler()).context("cannot empty a disk"),
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Lets the disk be read alone, or written again. Waits for programs that write to it.
    ///
    /// # Errors
    ///
    /// When it stays in use.
    pub(super) fn remount(&self, is_writable: bool) -> Result<()> {
        let way = if is_writable {
            "remount,rw"
        } else {
            "remount,ro"
        };
        patient(|| mount(&["-o", way], &self.at))
    }

    /// Gives the disk an error, after which it can only be read.
    ///
    /// # Errors
    ///
    /// When the system has no way to do so.
    pub(super) fn break_down(&self) -> Result<()> {
        let device = shell::read(
            Command::new("findmnt")
                .args(["-n", "-o", "SOURCE"])
                .arg(&self.at),
        )?;
        let device = device.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "torture").with_context(|| format!("cannot write {trigger}"))
    }

    /// Repairs and mounts the disk anew. Waits for programs that use it.
    ///
    /// # Errors
    ///
    /// When it stays in use, or the system refuses.
    pub(super) fn repair(&self) -> Result<()> {
        patient(|| shell::read(Command::new("umount").arg(&self.at)).map(drop))?;
        let checked = shell::output(Command::new("e2fsck").args(["-p", "-f"]).arg(&self.image))?;
        // 1: errors were corrected.
        let code = checked.status.code();
        ensure!(matches!(code, Some(0 | 1)), "e2fsck: {checked:?}");
        self.mount_image()
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    shell::read(Command::new("mount").args(arguments).arg(at)).map(drop)
}

/// Tries again for a while, because programs that end still use a disk.
fn patient(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match work() {
            Err(_) if begun.elapsed() < BUSY_MAX => thread::sleep(Duration::from_millis(20)),
            ended => return ended,
        }
    }
}
