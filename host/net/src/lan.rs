//! Peers on the local network, found by multicast DNS.
//!
//! Every node says at times where it is, and hears where others are. What is heard is a place to try and nothing else:
//! anybody on the network can say anything, and each dial authenticates. So it is kept apart from the addresses that
//! members were reached at, and no announcement pushes one of those out.
//!
//! Multicasts are sent from each of the endpoint's own addresses, and not where the system's default route leads: a
//! network without a way out has no default route. An endpoint on loopback alone sends nothing.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;
use futures_util::stream::{self, BoxStream, StreamExt};
use iroh::address_lookup::{AddressLookup, EndpointData, EndpointInfo, Error, Item};
use iroh::{EndpointId, TransportAddr};
use lattice_format::DeviceKey;
use parking_lot::Mutex;
use swarm_discovery::{Discoverer, DropGuard, IpClass};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::context::Context;
use crate::endpoint::{device_of, id_of, is_here};
use crate::host::NetEvent;
use crate::limits::{ADDRESSES_PER_PEER, LAN_NEWS_MAX, LAN_PEERS_MAX};

/// The service, which is `_lattice._udp.local` on the wire.
const SERVICE: &str = "lattice";
/// The name of this lookup in iroh's log lines.
const NAME: &str = "lan";
/// A node that heard no question for so long asks. A dial lasts longer than an answer to that takes.
const CADENCE: Duration = Duration::from_secs(2);
/// Answers a second on the whole network, roughly, however many nodes are there.
const RATE_HERTZ: f32 = 2.5;
/// How long a dial listens for a peer's announcement.
const PATIENCE: Duration = Duration::from_secs(10);
/// The shortest time between two announcements of one peer that each make this node dial.
const WAKE_PAUSE: Duration = Duration::from_secs(1);

/// After how long this device's key is taken to be in use elsewhere as well.
const ELSEWHERE_AFTER: Duration = Duration::from_secs(3);

/// The announcements on the local network: this node's, and what it hears.
#[derive(Clone)]
pub(crate) struct Lan(Arc<Shared>);

struct Shared {
    me: EndpointId,
    table: Mutex<Table>,
    /// Counts the changes of the table.
    heard: watch::Sender<u64>,
    /// Devices that were heard at a place that is new.
    news: mpsc::Sender<DeviceKey>,
    running: Mutex<Option<DropGuard>>,
    own: Mutex<Own>,
}

/// What is said of this node's own device.
#[derive(Default)]
struct Own {
    /// Where this node says that it is.
    announced: BTreeSet<SocketAddr>,
    /// Where else its device was heard, and when for the first time.
    elsewhere: Option<(Vec<SocketAddr>, Instant)>,
    /// Whether that was told.
    is_told: bool,
}

impl Own {
    /// Takes an announcement of this device. Returns whether it stands for another node, which is not told before it was
    /// heard there for a while: what this node said before it moved may come late.
    fn hear(&mut self, places: Vec<SocketAddr>, now: Instant) -> bool {
        if places.is_empty() || places.iter().any(|place| self.announced.contains(place)) {
            return false;
        }
        match &self.elsewhere {
            Some((known, first)) if *known == places => {
                let tells = !self.is_told && now.duration_since(*first) >= ELSEWHERE_AFTER;
                self.is_told |= tells;
                tells
            }
            _ => {
                self.elsewhere = Some((places, now));
                false
            }
        }
    }
}

impl std::fmt::Debug for Lan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lan")
    }
}

/// Devices that were heard at a place that is new.
pub(crate) type News = mpsc::Receiver<DeviceKey>;

impl Lan {
    /// Nothing is sent before the endpoint tells its addresses.
    pub(crate) fn new(me: EndpointId) -> (Self, News) {
        let (news, heard) = mpsc::channel(LAN_NEWS_MAX);
        let shared = Shared {
            me,
            table: Mutex::default(),
            heard: watch::Sender::new(0),
            news,
            running: Mutex::default(),
            own: Mutex::default(),
        };
        (Self(Arc::new(shared)), heard)
    }

    /// Where the peer was heard last.
    pub(crate) fn addresses(&self, peer: &DeviceKey) -> Vec<SocketAddr> {
        self.0.table.lock().addresses(peer)
    }

    /// Where else this node's own device was heard.
    fn elsewhere(&self) -> Vec<SocketAddr> {
        let own = self.0.own.lock();
        let elsewhere = own.elsewhere.as_ref();
        elsewhere.map_or_else(Vec::new, |(places, _)| places.clone())
    }

    /// Ends the announcements.
    pub(crate) fn stop(&self) {
        self.0.running.lock().take();
    }

    /// Announces these places from now on, from each address among them; says why that is not possible.
    fn announce(&self, places: &BTreeSet<SocketAddr>) -> Result<Option<DropGuard>, String> {
        let Some(class) = class_of(places) else {
            return Ok(None);
        };
        let listener = Arc::downgrade(&self.0);
        let mut discoverer = Discoverer::new(SERVICE.to_owned(), name_of(self.0.me))
            .with_cadence(CADENCE)
            .with_response_rate(RATE_HERTZ)
            .with_ip_class(class)
            .with_multicast_interfaces_v4(interfaces(places))
            .with_callback(move |name, peer| {
                let places = peer.addrs().iter().map(|place| SocketAddr::from(*place));
                if let (Some(shared), Some(device)) = (listener.upgrade(), device_named(name)) {
                    shared.hear(device, places);
                }
            });
        for place in places {
            discoverer = discoverer.with_addrs(place.port(), [place.ip()]);
        }
        discoverer
            .spawn(&Handle::current())
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

impl Shared {
    fn hear(&self, device: DeviceKey, places: impl Iterator<Item = SocketAddr>) {
        if id_of(&device) == Some(self.me) {
            if self.own.lock().hear(places.collect(), Instant::now()) {
                let _ = self.news.try_send(device);
            }
            return;
        }
        let heard = self.table.lock().hear(device, places, Instant::now());
        if heard == Heard::Nothing {
            return;
        }
        self.heard.send_modify(|count| *count += 1);
        if heard == Heard::Wakes {
            // A full queue drops this: the peer is dialled after its usual pause.
            let _ = self.news.try_send(device);
        }
    }
}

impl AddressLookup for Lan {
    fn publish(&self, data: &EndpointData) {
        let places = announced(data.ip_addrs().copied(), is_here);
        self.0.own.lock().announced.clone_from(&places);
        let mut running = self.0.running.lock();
        // Begun anew each time, also with the same places: an interface that was gone meanwhile has left its groups.
        *running = None;
        *running = self.announce(&places).unwrap_or_else(|reason| {
            tracing::warn!(
                "peers on the local network are not found by mDNS: {reason}; free UDP port 5353 for shared use, or \
                 run with --no-mdns"
            );
            None
        });
    }

    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        let listening = Listening {
            lan: self.clone(),
            peer: device_of(id),
            heard: self.0.heard.subscribe(),
            told: Vec::new(),
            until: tokio::time::Instant::now() + PATIENCE,
        };
        let items = stream::unfold(listening, move |mut listening| async move {
            let addresses = listening.next().await?;
            let places = addresses.into_iter().map(TransportAddr::Ip);
            let info = EndpointInfo::from_parts(id, EndpointData::from_iter(places));
            Some((Ok(Item::new(info, NAME, None)), listening))
        });
        Some(items.boxed())
    }
}

/// A dial that listens for its peer.
struct Listening {
    lan: Lan,
    peer: DeviceKey,
    heard: watch::Receiver<u64>,
    told: Vec<SocketAddr>,
    until: tokio::time::Instant,
}

impl Listening {
    /// The peer's places once they are others than before; `None` when it is time to stop.
    async fn next(&mut self) -> Option<Vec<SocketAddr>> {
        loop {
            self.heard.borrow_and_update();
            let places = self.lan.addresses(&self.peer);
            if !places.is_empty() && places != self.told {
                self.told.clone_from(&places);
                return Some(places);
            }
            tokio::time::timeout_at(self.until, self.heard.changed())
                .await
                .ok()?
                .ok()?;
        }
    }
}

/// Dials members as soon as they are heard at a new place, and tells of another node with this device's key.
pub(crate) async fn follow(context: Arc<Context>, mut news: News) {
    while let Some(peer) = news.recv().await {
        match &context.lan {
            Some(lan) if peer == context.me => context.host.event(NetEvent::KeyElsewhere {
                addresses: lan.elsewhere(),
            }),
            _ => context.links.address_learnt(&peer),
        }
    }
}

/// What an announcement changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing.
    Nothing,
    /// Where the peer is.
    Moved,
    /// Where the peer is, and it is worth a dial at once.
    Wakes,
}

struct Row {
    places: Vec<SocketAddr>,
    heard: Instant,
    woke: Option<Instant>,
}

/// Where devices were heard. Bounded by [`LAN_PEERS_MAX`] and [`ADDRESSES_PER_PEER`].
#[derive(Default)]
struct Table(HashMap<DeviceKey, Row>);

impl Table {
    /// Takes an announcement; one without places says that the peer is not heard any more.
    fn hear(
        &mut self,
        peer: DeviceKey,
        places: impl Iterator<Item = SocketAddr>,
        now: Instant,
    ) -> Heard {
        let places: Vec<SocketAddr> = places.take(ADDRESSES_PER_PEER).collect();
        if places.is_empty() {
            return match self.0.remove(&peer) {
                Some(_) => Heard::Moved,
                None => Heard::Nothing,
            };
        }
        if !self.0.contains_key(&peer) && self.0.len() >= LAN_PEERS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, row)| row.heard);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.0.remove(&oldest);
            }
        }
        let row = self.0.entry(peer).or_insert_with(|| Row {
            places: Vec::new(),
            heard: now,
            woke: None,
        });
        row.heard = now;
        if row.places == places {
            return Heard::Nothing;
        }
        row.places = places;
        match row.woke {
            Some(woke) if now.duration_since(woke) < WAKE_PAUSE => Heard::Moved,
            _ => {
                row.woke = Some(now);
                Heard::Wakes
            }
        }
    }

    fn addresses(&self, peer: &DeviceKey) -> Vec<SocketAddr> {
        self.0
            .get(peer)
            .map_or_else(Vec::new, |row| row.places.clone())
    }
}

/// What a device is called on the local network.
fn name_of(id: EndpointId) -> String {
    BASE32_NOPAD.encode(id.as_bytes()).to_ascii_lowercase()
}

/// The device of a name; `None` when no device has that name.
fn device_named(name: &str) -> Option<DeviceKey> {
    let bytes = BASE32_NOPAD
        .decode(name.to_ascii_uppercase().as_bytes())
        .ok()?;
    DeviceKey::from_slice(&bytes).filter(|device| id_of(device).is_some())
}

/// What of an endpoint's addresses is announced: those of this machine that other machines can use. What a router shows
/// to the internet is left out.
fn announced(
    addresses: impl Iterator<Item = SocketAddr>,
    is_here: impl Fn(IpAddr) -> bool,
) -> BTreeSet<SocketAddr> {
    let usable = |ip: IpAddr| {
        let is_scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_scoped
    };
    let mut places: BTreeSet<SocketAddr> = BTreeSet::new();
    for address in addresses {
        let ip = address.ip().to_canonical();
        if places.len() < ADDRESSES_PER_PEER && usable(ip) && is_here(ip) {
            places.insert(SocketAddr::new(ip, address.port()));
        }
    }
    places
}

/// The families to speak; `None` when there is nothing to announce.
fn class_of(places: &BTreeSet<SocketAddr>) -> Option<IpClass> {
    let v4 = places.iter().any(SocketAddr::is_ipv4);
    let v6 = places.iter().any(SocketAddr::is_ipv6);
    match (v4, v6) {
        (false, false) => None,
        (true, false) => Some(IpClass::V4Only),
        (false, true) => Some(IpClass::V6Only),
        (true, true) => Some(IpClass::Auto),
    }
}

fn interfaces(places: &BTreeSet<SocketAddr>) -> Vec<Ipv4Addr> {
    let v4 = places.iter().filter_map(|place| match place.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let distinct: BTreeSet<Ipv4Addr> = v4.collect();
    distinct.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u32) -> DeviceKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        DeviceKey(key)
    }

    fn place(port: usize) -> SocketAddr {
        ([10, 0, 0, 1], u16::try_from(port).unwrap()).into()
    }

    /// Holds: invariant 10.
    #[test]
    fn the_table_keeps_the_newest_peers_and_their_first_places() {
        let mut table = Table::default();
        let begun = Instant::now();
        let at = |n: usize| begun + Duration::from_millis(n as u64);
        for n in 0..LAN_PEERS_MAX {
            table.hear(device(n as u32), [place(1)].into_iter(), at(n));
        }
        assert_eq!(table.0.len(), LAN_PEERS_MAX);
        // Heard again, the first is not the oldest any more.
        table.hear(device(0), [place(1)].into_iter(), at(LAN_PEERS_MAX));
        let beyond = device(LAN_PEERS_MAX as u32);
        table.hear(beyond, [place(1)].into_iter(), at(LAN_PEERS_MAX + 1));
        assert_eq!(table.0.len(), LAN_PEERS_MAX);
        assert!(table.addresses(&device(1)).is_empty());
        assert_eq!(table.addresses(&device(0)), [place(1)]);
        assert_eq!(table.addresses(&beyond), [place(1)]);
        let many = (1..=ADDRESSES_PER_PEER + 1).map(place);
        table.hear(beyond, many, at(LAN_PEERS_MAX + 2));
        let kept: Vec<_> = (1..=ADDRESSES_PER_PEER).map(place).collect();
        assert_eq!(table.addresses(&beyond), kept);
    }

    #[test]
    fn a_peer_that_moves_all_the_time_is_dialled_once_a_while() {
        let mut table = Table::default();
        let begun = Instant::now();
        let mut hear =
            |port, after| table.hear(device(1), [place(port)].into_iter(), begun + after);
        assert_eq!(hear(1, Duration::ZERO), Heard::Wakes);
        assert_eq!(hear(1, WAKE_PAUSE), Heard::Nothing);
        assert_eq!(hear(2, WAKE_PAUSE), Heard::Wakes);
        assert_eq!(
            hear(3, WAKE_PAUSE * 2 - Duration::from_millis(1)),
            Heard::Moved
        );
        assert_eq!(hear(4, WAKE_PAUSE * 2), Heard::Wakes);
        assert_eq!(table.addresses(&device(1)), [place(4)]);
        let gone = table.hear(device(1), [].into_iter(), begun);
        assert_eq!(gone, Heard::Moved);
        assert!(table.addresses(&device(1)).is_empty());
    }

    /// Holds: invariant 10.
    #[test]
    fn of_news_that_nobody_takes_a_bounded_number_waits() {
        let me = iroh::SecretKey::from_bytes(&[7; 32]).public();
        let (lan, mut news) = Lan::new(me);
        lan.0.hear(device_of(me), [place(1)].into_iter());
        assert!(news.try_recv().is_err(), "a node is no news for itself");
        for number in 0..=LAN_NEWS_MAX as u32 {
            lan.0.hear(device(number), [place(1)].into_iter());
        }
        let waiting = std::iter::from_fn(|| news.try_recv().ok()).count();
        assert_eq!(waiting, LAN_NEWS_MAX);
        // What was not queued was heard all the same.
        assert_eq!(lan.addresses(&device(LAN_NEWS_MAX as u32)), [place(1)]);
    }

    #[test]
    fn a_second_node_with_this_key_is_told_once_and_an_echo_is_none() {
        let mut own = Own {
            announced: [place(1), place(2)].into(),
            ..Own::default()
        };
        let begun = Instant::now();
        let later = begun + ELSEWHERE_AFTER;
        // What it says itself, and what it said of fewer interfaces.
        assert!(!own.hear(vec![place(1), place(2)], begun));
        assert!(!own.hear(vec![place(2)], later));
        assert!(!own.hear(Vec::new(), later));
        assert!(own.elsewhere.is_none());
        // A late echo of where it was is not repeated for long.
        assert!(!own.hear(vec![place(3)], begun));
        assert!(!own.hear(vec![place(3)], later - Duration::from_millis(1)));
        assert!(!own.hear(vec![place(4)], later));
        assert!(own.hear(vec![place(4)], later + ELSEWHERE_AFTER));
        assert!(!own.hear(vec![place(4)], later + ELSEWHERE_AFTER * 2));
    }

    #[tokio::test]
    async fn a_dial_hears_where_its_peer_is_and_where_it_goes() {
        let me = iroh::SecretKey::from_bytes(&[7; 32]).public();
        let peer = iroh::SecretKey::from_bytes(&[8; 32]).public();
        let (lan, _news) = Lan::new(me);
        let mut items = lan.resolve(peer).unwrap();
        for port in [1, 2] {
            lan.0.hear(device(1), [place(port)].into_iter());
            lan.0.hear(device_of(peer), [place(port)].into_iter());
            let item = items.next().await.unwrap().unwrap();
            let told: Vec<_> = item.ip_addrs().copied().collect();
            assert_eq!((item.endpoint_id(), told), (peer, vec![place(port)]));
        }
        assert_eq!(lan.addresses(&device_of(peer)), [place(2)]);
    }

    #[test]
    fn a_name_on_the_wire_stands_for_its_device() {
        let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
        let name = name_of(id);
        assert_eq!(name, "5jfgyy7ctrjavpxvkb5rglwf7gkuo5vox27hxescd3vgsfcg2iwa");
        assert!(name.len() <= 63, "the longest label of a name");
        assert_eq!(device_named(&name), Some(device_of(id)));
        assert_eq!(
            device_named(&name.to_ascii_uppercase()),
            Some(device_of(id))
        );
        for wrong in ["", "a", "lattice", &name[1..]] {
            assert_eq!(device_named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_other_machines_can_use_is_announced() {
        let all = [
            "127.0.0.1:1",
            "0.0.0.0:1",
            "[::1]:1",
            "[fe80::1]:1",
            "224.0.0.251:1",
            "192.0.2.1:1",
            "10.0.0.1:1",
            "169.254.1.1:1",
            "[fd00::1]:1",
        ];
        let all = all.map(|text| text.parse::<SocketAddr>().unwrap());
        let router: IpAddr = "192.0.2.1".parse().unwrap();
        let places = announced(all.into_iter(), |ip| ip != router);
        let shown: Vec<_> = places.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1:1", "169.254.1.1:1", "[fd00::1]:1"]);
        assert_eq!(class_of(&places), Some(IpClass::Auto));
        let v4 = interfaces(&places);
        assert_eq!(v4.len(), 2);
        // On loopback alone nothing is sent at all.
        let none = announced(all[..5].iter().copied(), |_| true);
        assert_eq!(class_of(&none), None);
        let many = (1..100).map(place);
        assert_eq!(announced(many, |_| true).len(), ADDRESSES_PER_PEER);
        assert!(is_here(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_here(router));
    }
}
