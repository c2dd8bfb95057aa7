//! How far a swarm has come, in a file, so that a long one can be stopped and goes on later.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lattice_sim::{Hour, Progress, Shape};

use crate::arguments::SeedsArgs;
use crate::outcome::{Failure, Result, write};

/// A file that says up to which seed all runs of one kind have held.
pub(crate) struct Record {
    path: PathBuf,
    /// What the seeds are of: others have a file of their own.
    kind: String,
    progress: Mutex<(Progress, Result<()>)>,
}

impl Record {
    pub(crate) fn open(path: &Path, args: &SeedsArgs, shape: Shape) -> Result<Self> {
        let hour = match shape.hour {
            None => "",
            Some(Hour::Attacks) => "hostile ",
            Some(Hour::Clocks) => "hostile clocks ",
        };
        let kind = format!(
            "{hour}{} nodes {} steps {} from {}",
            args.plugin, shape.nodes, shape.steps, args.seeds.start
        );
        let next = match fs::read_to_string(path) {
            Ok(text) => match text.trim_end().rsplit_once(" next ") {
                Some((known, next)) if known == kind => next.parse().ok(),
                _ => None,
            }
            .ok_or_else(|| {
                let text = format!("{} is not about {kind}", path.display());
                Failure::usage(text).hint("name another file, or remove it to begin anew")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => args.seeds.start,
            Err(error) => return Err(Failure::failed(format!("{}: {error}", path.display()))),
        };
        Ok(Self {
            path: path.to_owned(),
            kind,
            progress: Mutex::new((Progress::new(next), Ok(()))),
        })
    }

    pub(crate) fn next(&self) -> u64 {
        self.progress
            .lock()
            .expect("no panic while it is held")
            .0
            .next()
    }

    pub(crate) fn held(&self, seed: u64) {
        let mut progress = self.progress.lock().expect("no panic while it is held");
        if progress.0.held(seed) {
            let line = format!("{} next {}\n", self.kind, progress.0.next());
            // Whoever is killed in between finds the old line or the new one.
            let fresh = self.path.with_extension("new");
            progress.1 = write(&fresh, &line).and_then(|()| {
                fs::rename(&fresh, &self.path)
                    .map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))
            });
        }
    }

    pub(crate) fn close(self) -> Result<()> {
        let progress = self.progress.into_inner();
        progress.expect("no panic while it was held").1
    }
}
