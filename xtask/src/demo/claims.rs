//! The demo's claims: what should hold, and whether it did.

use anyhow::{Result, ensure};

/// The claims that the demo has made: how many held, and which did not.
#[derive(Default)]
pub(super) struct Claims {
    held: usize,
    broken: Vec<String>,
}

impl Claims {
    /// Prints a claim and remembers it; `why` explains one that does not hold.
    pub(super) fn hold(&mut self, claim: &str, holds: bool, why: impl FnOnce() -> String) {
        if holds {
            self.held += 1;
            println!("   ok: {claim}");
        } else {
            println!("   BROKEN: {claim}: {}", why());
            self.broken.push(claim.to_owned());
        }
    }

    pub(super) fn verdict(self) -> Result<()> {
        println!("{} claims held, {} did not", self.held, self.broken.len());
        ensure!(self.broken.is_empty(), "broken: {}", self.broken.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_claim_decides_the_verdict() {
        let mut claims = Claims::default();
        claims.hold("one", true, String::new);
        claims.hold("two", false, || "of a reason".to_owned());
        let error = claims.verdict().expect_err("one is broken").to_string();
        assert_eq!(error, "broken: two");
        assert!(Claims::default().verdict().is_ok());
    }
}
