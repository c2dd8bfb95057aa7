//! The switches for the ways in which a node finds peers: `daemon` and `store join` have them.

use clap::Args;
use lattice_daemon::{Ways, api};

use crate::failure::{Failure, Result};

/// The switches. All ways are open without them.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WayArgs {
    /// Do not use relays: peers must reach this node's own addresses
    #[arg(long)]
    no_relay: bool,
    /// Do not look for peers in the public discovery service, nor let them look for this node there
    #[arg(long)]
    no_discovery: bool,
    /// Do not look for peers on the local network by mDNS, nor announce this node there
    #[arg(long)]
    no_mdns: bool,
}

impl WayArgs {
    /// The ways that are left open.
    pub(crate) fn ways(self) -> Ways {
        Ways {
            relay: !self.no_relay,
            discovery: !self.no_discovery,
            mdns: !self.no_mdns,
        }
    }

    /// Whether every way is open.
    pub(crate) fn is_all(self) -> bool {
        self.ways() == Ways::ALL
    }

    /// Checks that a node uses no way that was switched off: one that runs already keeps its own switches.
    ///
    /// # Errors
    /// Class `Usage`, with the switches that the node lacks.
    pub(crate) fn check(self, node: &api::NodeStatus) -> Result<()> {
        let used = [
            (self.no_relay && node.relay, "--no-relay"),
            (self.no_discovery && node.discovery, "--no-discovery"),
            (self.no_mdns && node.mdns, "--no-mdns"),
        ];
        let used: Vec<&str> = used
            .iter()
            .filter_map(|(used, switch)| used.then_some(*switch))
            .collect();
        if used.is_empty() {
            return Ok(());
        }
        let switches = used.join(" ");
        Err(Failure::usage(format!(
            "a daemon runs in this home without {switches}, so join cannot use it"
        ))
        .hint(format!(
            "end the daemon and run `lattice daemon {switches}`, or leave the switch out"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        ways: WayArgs,
    }

    fn parse(flags: &[&str]) -> WayArgs {
        let line = ["x"].iter().chain(flags);
        <Line as clap::Parser>::try_parse_from(line)
            .expect("it parses")
            .ways
    }

    #[test]
    fn every_way_is_open_until_its_switch_closes_it() {
        assert!(parse(&[]).is_all());
        let all = ["--no-relay", "--no-discovery", "--no-mdns"];
        for (closed, switch) in all.iter().enumerate() {
            let ways = parse(&[switch]).ways();
            let open = [ways.relay, ways.discovery, ways.mdns];
            assert_eq!(open.map(|open| !open), [0, 1, 2].map(|n| n == closed));
        }
        assert_eq!(parse(&all).ways(), Ways::NONE);
    }

    #[test]
    fn a_running_node_must_have_the_switches_already() {
        let node = api::NodeStatus {
            relay: true,
            mdns: true,
            ..Default::default()
        };
        assert!(parse(&[]).check(&node).is_ok());
        assert!(parse(&["--no-discovery"]).check(&node).is_ok());
        let refused = parse(&["--no-relay", "--no-discovery", "--no-mdns"]).check(&node);
        let refused = refused.expect_err("the node uses relays and mDNS");
        assert_eq!(refused.exit_code(), 2);
        let line = refused.line().expect("a line");
        assert!(
            line.contains("`lattice daemon --no-relay --no-mdns`"),
            "{line}"
        );
    }
}
