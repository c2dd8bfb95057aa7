//! Verification of signatures, beside that of ed25519-dalek in the same loop.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use lattice_format::{Header, SignedHeader, verify, verify_batch};

use crate::entries;
use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::settings::Settings;

/// Signatures of one batch.
const BATCH: usize = 256;
/// Batches of one run.
const BATCHES: usize = 40;
/// Single signatures that are verified after each batch.
const SINGLES: usize = 8;

/// Measures verification. That of this system includes decoding the header, its canonical form and its hash.
///
/// # Errors
/// When a signature does not hold.
pub(crate) fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let signed = entries::signed(BATCH as u64);
    let ids: Vec<[u8; 32]> = signed
        .iter()
        .map(|entry| Header::id_of(&entry.bytes).0)
        .collect();
    let signatures: Vec<Signature> = signed
        .iter()
        .map(|entry| Signature::from_bytes(&entry.signature.0))
        .collect();
    let author = entries::key().verifying_key();
    let authors = vec![author; BATCH];
    let (mut batch, mut single) = (Vec::new(), Vec::new());
    for number in 1..=settings.runs {
        settings.say(&format!("signatures, run {number} of {}", settings.runs));
        let mut ours = Durations::default();
        let mut ours_single = Durations::default();
        let mut theirs = Durations::default();
        let mut theirs_single = Durations::default();
        for round in 0..BATCHES {
            let entries = signed.clone();
            let started = Instant::now();
            let verified = verify_batch(entries, &[round as u8; 32]);
            ours.push(started.elapsed());
            ensure!(
                verified.iter().all(Result::is_ok),
                "a signature of our own does not hold"
            );
            let started = Instant::now();
            dalek_batch(&ids, &signatures, &authors)?;
            theirs.push(started.elapsed());
            for i in (0..SINGLES).map(|i| (round * SINGLES + i) % BATCH) {
                let entry: SignedHeader = signed[i].clone();
                let started = Instant::now();
                black_box(verify(entry)?);
                ours_single.push(started.elapsed());
                let started = Instant::now();
                // Decoding the key is measured too, because it comes as bytes with each entry.
                VerifyingKey::from_bytes(black_box(author.as_bytes()))?
                    .verify(&ids[i], &signatures[i])?;
                theirs_single.push(started.elapsed());
            }
        }
        batch.push(Sample {
            ours: ours.p50() / BATCH as f64,
            raw: theirs.p50() / BATCH as f64,
        });
        single.push(Sample {
            ours: ours_single.p50(),
            raw: theirs_single.p50(),
        });
    }
    let figure = |name: &str, raw_is, runs: Vec<Sample>| {
        let rate =
            |number: fn(&Sample) -> f64| 1.0 / crate::figure::median(runs.iter().map(number));
        let notes = vec![format!(
            "{:.0}/s beside {:.0}/s",
            rate(|run| run.ours),
            rate(|run| run.raw)
        )];
        Figure {
            name: name.into(),
            unit: Unit::Time,
            raw_is,
            target: Target::None,
            runs,
            notes,
        }
    };
    Ok(vec![
        figure(
            "a header verified in a batch of 256 (ZIP-215)",
            DALEK_BATCH,
            batch,
        ),
        figure(
            "a header verified alone (ZIP-215)",
            "a signature, ed25519-dalek",
            single,
        ),
    ])
}

#[cfg(feature = "dalek-batch")]
const DALEK_BATCH: &str = "a signature in a batch of 256, ed25519-dalek";

#[cfg(feature = "dalek-batch")]
fn dalek_batch(ids: &[[u8; 32]], signatures: &[Signature], authors: &[VerifyingKey]) -> Result<()> {
    let ids: Vec<&[u8]> = ids.iter().map(<[u8; 32]>::as_slice).collect();
    ed25519_dalek::verify_batch(&ids, signatures, authors)?;
    Ok(())
}

#[cfg(not(feature = "dalek-batch"))]
const DALEK_BATCH: &str =
    "a signature one by one, ed25519-dalek (its batches need the feature dalek-batch)";

#[cfg(not(feature = "dalek-batch"))]
fn dalek_batch(ids: &[[u8; 32]], signatures: &[Signature], authors: &[VerifyingKey]) -> Result<()> {
    for ((id, signature), author) in ids.iter().zip(signatures).zip(authors) {
        author.verify(id, signature)?;
    }
    Ok(())
}
