//! Machines on a local network without a way out, each a network namespace: what finds peers there, and what a switch
//! keeps from being sent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Home, command_by, daemon_by, finish};

/// Machines whose interfaces `eth0` are joined by a bridge. They live until this is dropped.
struct Lan {
    /// Holds the namespace of the bridge.
    bridge: Child,
    machines: Vec<Child>,
    is_root: bool,
}

impl Lan {
    /// So many machines, whose interfaces are down and have no address. A machine that may make no network namespace
    /// cannot run these tests.
    fn of(machines: usize) -> Lan {
        const BRIDGE: &str = "ip link set lo up && ip link add br0 type bridge mcast_snooping 0 &&
            ip link set br0 up && echo ready && exec cat";
        let keep = |command: &mut Command, script: &str| {
            let mut keeper = command
                .args(["sh", "-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a command starts");
            let mut said = String::new();
            BufReader::new(keeper.stdout.take().expect("piped"))
                .read_line(&mut said)
                .expect("UTF-8");
            (said == "ready\n").then_some(keeper)
        };
        let by_root = keep(Command::new("unshare").arg("--net"), BRIDGE);
        let is_root = by_root.is_some();
        let bridge = by_root.or_else(|| {
            let way = ["--user", "--map-root-user", "--net"];
            keep(Command::new("unshare").args(way), BRIDGE)
        });
        let bridge = bridge.expect(
            "a bridge in a network namespace, which needs root or user namespaces, and `ip`",
        );
        let mut lan = Lan {
            bridge,
            machines: Vec::new(),
            is_root,
        };
        for number in 1..=machines {
            let mut inside = lan.inside(lan.bridge.id());
            let machine = keep(inside.args(["unshare", "--net"]), "echo ready && exec cat");
            let machine = machine.expect("a namespace");
            let link = format!(
                "ip link add m{number} type veth peer name eth0 netns {} &&
                ip link set m{number} master br0 up",
                machine.id()
            );
            lan.machines.push(machine);
            lan.sh(lan.bridge.id(), &link);
        }
        lan
    }

    fn inside(&self, process: u32) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &process.to_string(), "--net"]);
        if !self.is_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
    }

    fn sh(&self, process: u32, script: &str) -> String {
        let output = self
            .inside(process)
            .args(["sh", "-c", script])
            .stderr(Stdio::inherit())
            .output()
            .expect("nsenter");
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a script on a machine, counted from 1.
    fn on(&self, machine: usize, script: &str) -> String {
        self.sh(self.machines[machine - 1].id(), script)
    }

    /// Gives a machine this address alone, on a network without a route to anywhere else.
    fn address(&self, machine: usize, address: &str) {
        let family = if address.contains(':') { "-6" } else { "-4" };
        // Duplicates of an address are not looked for, which would take seconds.
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.on(
            machine,
            &format!(
                "ip link set lo up && ip link set eth0 up && ip {family} addr flush dev eth0 scope global &&
                ip addr add {address} dev eth0 {nodad}"
            ),
        );
    }

    /// `lattice` on a machine, with this home.
    fn lattice(&self, machine: usize, home: &Path) -> Command {
        command_by(self.inside(self.machines[machine - 1].id()), home)
    }

    /// A daemon on a machine, once it is ready.
    fn daemon(&self, machine: usize, home: &Path, switches: &[&str]) -> Daemon {
        let mut command = self.lattice(machine, home);
        daemon_by(command.args(["daemon", "--json"]).args(switches))
    }

    /// Runs a command on a machine, which must succeed; what it printed.
    fn ok(&self, machine: usize, home: &Home, words: &[&str]) -> String {
        let ended = finish(self.lattice(machine, home.path()).args(words));
        assert_eq!(ended.code, 0, "lattice {words:?}: {ended:?}");
        ended.stdout.trim().to_owned()
    }

    /// Waits until a query on a machine gives this.
    fn until(&self, machine: usize, home: &Home, value: &str, within: Duration) {
        let begun = Instant::now();
        loop {
            let found = self.ok(machine, home, &["query", "clicks", "value"]);
            if found == value {
                return;
            }
            let waited = begun.elapsed();
            assert!(waited < within, "{found} and not {value} after {waited:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Packets that a machine's interface has sent, datagrams of UDP, and packets to multicast groups.
    fn sent(&self, machine: usize) -> Sent {
        let devices = self.on(machine, "cat /proc/net/dev");
        let line = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("eth0:"));
        let packets = line.expect("eth0").split_whitespace().nth(9);
        let counters = self.on(machine, "cat /proc/net/snmp /proc/net/netstat");
        Sent {
            packets: packets.expect("a counter").parse().expect("a number"),
            datagrams: counter(&counters, "Udp:", "OutDatagrams"),
            multicasts: counter(&counters, "IpExt:", "OutMcastPkts"),
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for keeper in self.machines.iter_mut().chain([&mut self.bridge]) {
            // Its standard input closes, which ends it.
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// What a machine has sent since its interface came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    packets: u64,
    datagrams: u64,
    multicasts: u64,
}

/// A counter of the kernel: a line of names stands above the line of their values.
fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next().expect("names").split_whitespace();
    let mut values = lines.next().expect("values").split_whitespace();
    let place = names
        .into_iter()
        .position(|n| n == name)
        .expect("a counter");
    values
        .nth(place)
        .expect("a value")
        .parse()
        .expect("a number")
}

/// A store is created on one machine and joined from another, after the first has another address than the token
/// says; then both keep finding each other wherever they are.
fn find_each_other(first: &str, moved: &str, second: &str, again: &str) {
    let lan = Lan::of(2);
    let (ann, bob) = (Home::new(), Home::new());
    lan.address(1, first);
    lan.address(2, second);
    lan.ok(
        1,
        &ann,
        &["store", "create", "clicks", "--plugin", "counter"],
    );
    let daemon = lan.daemon(1, ann.path(), &[]);
    let token = lan.ok(1, &ann, &["store", "invite", "clicks"]);
    lan.ok(1, &ann, &["call", "clicks", "add", "1"]);
    drop(daemon);
    lan.address(1, moved);
    let daemon = lan.daemon(1, ann.path(), &[]);
    lan.ok(2, &bob, &["store", "join", "--yes", &token]);
    assert_eq!(lan.ok(2, &bob, &["query", "clicks", "value"]), "1");
    // Of both, each where the other does not know it.
    drop(daemon);
    lan.address(1, first);
    lan.address(2, again);
    let _ann = lan.daemon(1, ann.path(), &[]);
    let _bob = lan.daemon(2, bob.path(), &[]);
    lan.ok(1, &ann, &["call", "clicks", "add", "1"]);
    lan.until(2, &bob, "2", Duration::from_secs(15));
    // While they are connected.
    lan.address(1, moved);
    lan.ok(1, &ann, &["call", "clicks", "add", "1"]);
    lan.until(2, &bob, "3", Duration::from_secs(15));
    lan.ok(2, &bob, &["call", "clicks", "add", "1"]);
    lan.until(1, &ann, "4", Duration::from_secs(15));
}

#[test]
fn peers_without_a_way_out_find_each_other_wherever_they_go() {
    find_each_other(
        "10.77.0.1/24",
        "10.77.0.101/24",
        "10.77.0.2/24",
        "10.77.0.102/24",
    );
}

#[test]
fn peers_that_have_ipv6_alone_find_each_other_wherever_they_go() {
    find_each_other("fd77::1/64", "fd77::101/64", "fd77::2/64", "fd77::102/64");
}

/// No way to find peers but the addresses that are known.
const ALONE: [&str; 3] = ["--no-relay", "--no-discovery", "--no-mdns"];

/// Without any lookup: who was connected tells where it went, and that is written down.
#[test]
fn a_peer_that_moved_while_connected_is_found_there_after_a_restart() {
    let lan = Lan::of(2);
    let (ann, bob) = (Home::new(), Home::new());
    lan.address(1, "10.77.0.1/24");
    lan.address(2, "10.77.0.2/24");
    lan.ok(
        1,
        &ann,
        &["store", "create", "clicks", "--plugin", "counter"],
    );
    let _ann = lan.daemon(1, ann.path(), &ALONE);
    let token = lan.ok(1, &ann, &["store", "invite", "clicks"]);
    let daemon = lan.daemon(2, bob.path(), &ALONE);
    lan.ok(2, &bob, &["store", "join", "--yes", &token]);
    lan.address(1, "10.77.0.101/24");
    let moved = Instant::now();
    lan.ok(1, &ann, &["call", "clicks", "add", "1"]);
    lan.until(2, &bob, "1", Duration::from_secs(15));
    let told = Instant::now();
    while !lan
        .ok(2, &bob, &["--json", "status"])
        .contains("10.77.0.101:")
    {
        assert!(told.elapsed() < Duration::from_secs(5), "it was not told");
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("known {:?} after it moved", moved.elapsed());
    // It has gone elsewhere itself meanwhile, where nobody else finds it.
    drop(daemon);
    lan.address(2, "10.77.0.102/24");
    let _bob = lan.daemon(2, bob.path(), &ALONE);
    lan.ok(2, &bob, &["call", "clicks", "add", "1"]);
    lan.until(1, &ann, "2", Duration::from_secs(15));
}

/// One key on two machines: the copy says so when it is opened, and each of the two when it meets the other's traces.
#[test]
fn a_home_that_was_copied_to_two_machines_is_told_on_both() {
    let lan = Lan::of(3);
    let (ann, copy, carol) = (Home::new(), Home::new(), Home::new());
    for machine in 1..=3 {
        lan.address(machine, &format!("10.77.0.{machine}/24"));
    }
    lan.ok(
        1,
        &ann,
        &["store", "create", "clicks", "--plugin", "counter"],
    );
    let daemon = lan.daemon(1, ann.path(), &ALONE);
    let token = lan.ok(1, &ann, &["store", "invite", "clicks"]);
    let _carol = lan.daemon(3, carol.path(), &ALONE);
    lan.ok(3, &carol, &["store", "join", "--yes", &token]);
    daemon.end("TERM");
    assert!(
        lan.ok(1, &ann, &["doctor"])
            .contains("no sign of another home")
    );
    let copied = Command::new("cp")
        .args(["-r", &format!("{}/.", ann.path().display())])
        .arg(copy.path())
        .status()
        .expect("cp");
    assert!(copied.success());
    let told = |machine, home: &Home, sign: &str| {
        let begun = Instant::now();
        while !lan.ok(machine, home, &["notices"]).contains(sign) {
            assert!(begun.elapsed() < Duration::from_secs(40), "no {sign:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let doctor = lan.ok(machine, home, &["doctor"]);
        let says = doctor.contains(sign) && doctor.contains("end its node");
        assert!(says, "{doctor}");
    };
    // The copy, from its files, with nobody near.
    assert_eq!(lan.ok(2, &copy, &["query", "clicks", "value"]), "0");
    told(2, &copy, "copied or restored");
    // The first home, from what the copy signed.
    let ann_daemon = lan.daemon(1, ann.path(), &ALONE);
    let copy_daemon = lan.daemon(2, copy.path(), &ALONE);
    lan.ok(2, &copy, &["call", "clicks", "add", "1"]);
    told(1, &ann, "this home does not have");
    // Each of them, from the other's announcements.
    drop((ann_daemon, copy_daemon));
    let _ann = lan.daemon(1, ann.path(), &[]);
    let copy_daemon = lan.daemon(2, copy.path(), &[]);
    told(1, &ann, "10.77.0.2:");
    told(2, &copy, "10.77.0.1:");
    // What doctor says to do.
    drop(copy_daemon);
    lan.ok(1, &ann, &["notices", "ack", "--all"]);
    assert!(
        lan.ok(1, &ann, &["doctor"])
            .contains("no sign of another home")
    );
}

/// Each switch alone, and all: what it forbids is not sent, and what the others allow is.
#[test]
fn no_lookup_leaves_the_machine_that_a_switch_forbids() {
    for (switches, multicasts, others) in [
        (
            &["--no-relay", "--no-discovery", "--no-mdns"][..],
            false,
            false,
        ),
        (&["--no-relay", "--no-discovery"], true, false),
        (&["--no-mdns"], false, true),
    ] {
        let lan = Lan::of(1);
        // IPv6 sends packets of its own. What goes out leads to a machine that is not there.
        lan.on(1, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        lan.address(1, "10.77.0.1/24");
        lan.on(1, "ip route add default via 10.77.0.254");
        let home = Home::new();
        let before = lan.sent(1);
        let daemon = lan.daemon(1, home.path(), switches);
        std::thread::sleep(Duration::from_secs(6));
        let sent = lan.sent(1);
        drop(daemon);
        let multicast = sent.multicasts - before.multicasts;
        let datagrams = sent.datagrams - before.datagrams;
        assert_eq!(multicast > 0, multicasts, "{switches:?}: {sent:?}");
        // Reports to the router of which groups are listened to are multicasts and no datagrams.
        assert_eq!(datagrams > multicast, others, "{switches:?}: {sent:?}");
        if !multicasts && !others {
            assert_eq!(sent, before, "{switches:?}");
        }
    }
}

/// The switch that keeps announcements back also keeps peers from being found.
#[test]
fn who_announces_nothing_is_not_found() {
    let lan = Lan::of(2);
    let (ann, bob) = (Home::new(), Home::new());
    lan.address(1, "10.77.0.1/24");
    lan.address(2, "10.77.0.2/24");
    lan.ok(
        1,
        &ann,
        &["store", "create", "clicks", "--plugin", "counter"],
    );
    let daemon = lan.daemon(1, ann.path(), &["--no-mdns"]);
    let token = lan.ok(1, &ann, &["store", "invite", "clicks"]);
    drop(daemon);
    lan.address(1, "10.77.0.101/24");
    let daemon = lan.daemon(1, ann.path(), &["--no-mdns"]);
    let join = [
        "store",
        "join",
        "--yes",
        "--no-relay",
        "--no-discovery",
        &token,
    ];
    let ended = finish(lan.lattice(2, bob.path()).args(join));
    ended.failed(3, &["try again when a member's node runs"]);
    drop(daemon);
    // Nor does who does not listen find anybody; who does, does.
    let _daemon = lan.daemon(1, ann.path(), &["--no-relay", "--no-discovery"]);
    let deaf = finish(lan.lattice(2, bob.path()).args(join).arg("--no-mdns"));
    deaf.failed(3, &["try again when a member's node runs"]);
    lan.ok(2, &bob, &join);
}
