//! `daemon`: runs the node until a signal ends it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use clap::Args;
use lattice_daemon::{ClockOptions, DaemonError, DaemonOptions, Idle, OpenError, Ready};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Class, Failure, Result};
use crate::output::{Output, fields};
use crate::ways::WayArgs;
use crate::{signals, text};

/// Arguments of `daemon`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the node's id and addresses when it is ready, and tells systemd. Other
commands with the same --home then talk to it.

On one machine:
  lattice daemon --bind 127.0.0.1:0 --no-relay --no-discovery
On a network without the internet, where nodes find each other by mDNS:
  lattice daemon --no-relay --no-discovery")]
pub(crate) struct DaemonArgs {
    /// The address and UDP port for peers [default: any address, a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<SocketAddr>,
    #[command(flatten)]
    ways: WayArgs,
    /// Sign by this machine's clock, whatever the clocks of members show
    #[arg(long)]
    trust_clock: bool,
}

impl DaemonArgs {
    fn options(&self, home: PathBuf, idle: Idle) -> DaemonOptions {
        DaemonOptions {
            home,
            bind: self.bind,
            ways: self.ways.ways(),
            clock: ClockOptions {
                trusted: self.trust_clock,
                ..ClockOptions::default()
            },
            idle,
        }
    }
}

/// Runs `daemon`. The runtime's threads tell `idle` when they are about to sleep, which is when the node clears up.
pub(crate) async fn run(context: &Context, args: DaemonArgs, idle: Idle) -> Result<()> {
    let options = args.options(context.home.clone(), idle);
    let output = context.output;
    let mut signals = signals::listen()?;
    let shutdown = async move {
        let name = signals.recv().await;
        tracing::info!("{name}: shutting down");
        notify("STOPPING=1");
    };
    lattice_daemon::run(options, move |ready| announce(output, &ready), shutdown)
        .await
        .map_err(|error| failure(&error))
}

/// Reports that the node is ready, on standard output and to the service manager.
fn announce(output: Output, ready: &Ready) {
    let said = output.message(|| ready_text(ready), || ready_json(ready));
    if let Err(failure) = said {
        // The process that started the daemon may have ended, which is no reason for the daemon to end.
        tracing::warn!("{failure}");
    }
    notify("READY=1");
}

fn ready_text(ready: &Ready) -> String {
    let addresses: Vec<String> = ready.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() {
        "none".to_owned()
    } else {
        addresses.join("  ")
    };
    fields([
        ("node", text::id(&ready.node_id)),
        ("addresses", addresses),
        ("socket", ready.socket.display().to_string()),
        ("state", "ready".to_owned()),
    ])
}

fn ready_json(ready: &Ready) -> Value {
    let addresses: Vec<String> = ready.addresses.iter().map(ToString::to_string).collect();
    json!({
        "node": text::id_json(&ready.node_id),
        "addresses": addresses,
        "socket": ready.socket.display().to_string(),
        "state": "ready",
    })
}

fn failure(error: &DaemonError) -> Failure {
    let failure = Failure::new(Class::Unreachable, error.to_string());
    match error {
        DaemonError::Open(OpenError::Locked { .. }) => {
            failure.hint("a daemon runs there already, or a command does: end it first")
        }
        DaemonError::Open(OpenError::Network(_)) => {
            failure.hint("is --bind an address of this machine, and its port free?")
        }
        _ => failure,
    }
}

/// Tells the service manager of the daemon's state, if one listens. See sd_notify(3).
fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(socket.as_bytes(), state.as_bytes()) {
        tracing::warn!("cannot tell {state} to $NOTIFY_SOCKET {socket:?}: {error}");
    }
}

fn send(socket: &[u8], state: &[u8]) -> io::Result<()> {
    use std::os::unix::net::SocketAddr;
    let from = UnixDatagram::unbound()?;
    let to = match socket.split_first() {
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)?
        }
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    from.send_to_addr(state, &to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_peers_is_open_until_a_flag_closes_it_and_no_flag_skews_the_clock() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            daemon: DaemonArgs,
        }
        for (flags, relay, discovery, mdns, trusted) in [
            (&[][..], true, true, true, false),
            (&["--no-relay"], false, true, true, false),
            (&["--no-discovery"], true, false, true, false),
            (&["--no-relay", "--no-discovery"], false, false, true, false),
            (&["--no-mdns"], true, true, false, false),
            (&["--trust-clock"], true, true, true, true),
        ] {
            let line = ["daemon"].iter().chain(flags);
            let line = <Line as clap::Parser>::try_parse_from(line).expect("it parses");
            let options = line.daemon.options("home".into(), Idle::default());
            assert_eq!(
                (options.ways, options.clock.trusted),
                (
                    lattice_daemon::Ways {
                        relay,
                        discovery,
                        mdns
                    },
                    trusted
                ),
                "{flags:?}"
            );
            assert_eq!(options.clock.skew_ms, 0, "{flags:?}");
        }
    }

    #[test]
    fn the_service_manager_hears_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        send(path.as_os_str().as_bytes(), b"READY=1").expect("sent");
        let mut heard = [0; 32];
        let len = manager.recv(&mut heard).expect("received");
        assert_eq!(&heard[..len], b"READY=1");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_service_manager_may_have_an_abstract_socket() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let name = format!("lattice-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bound");
        send(format!("@{name}").as_bytes(), b"READY=1").expect("sent");
        let mut heard = [0; 32];
        let len = manager.recv(&mut heard).expect("received");
        assert_eq!(&heard[..len], b"READY=1");
    }
}
