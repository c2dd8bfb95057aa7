//! How often entries run again, by whose late entry.

use lattice_format::Lane;
use lattice_testing::{self as testing, Step, device};

use crate::revocation::{FOUNDER, MEMBER, ROGUE, Team, put};

fn copy(from: u8, to: u8) -> Vec<Step> {
    vec![
        Step::Get {
            k: from,
            dynamic: false,
        },
        Step::Put {
            k: to,
            dynamic: false,
            value: 0,
        },
    ]
}

#[test]
fn replays_are_metered_by_the_author_of_what_came_late() {
    let mut team = Team::new();
    let replays = |team: &Team, by: u8| {
        let snapshot = team.stores[0].snapshot();
        let runs = snapshot.summary().replays.get(&device(by)).copied();
        runs.unwrap_or(0)
    };
    // Written first and seen last: what the others read of it changes, one through another.
    team.app(ROGUE, &put(1));
    team.app(FOUNDER, &copy(1, 2));
    team.send(FOUNDER, MEMBER);
    team.app(MEMBER, &copy(2, 3));
    team.send(MEMBER, FOUNDER);
    team.app(FOUNDER, &put(5));
    for by in [FOUNDER, MEMBER, ROGUE] {
        assert_eq!(replays(&team, by), 0, "nothing came late");
    }
    team.send(ROGUE, FOUNDER);
    // The copies ran again, and what read nothing of it did not.
    assert_eq!(replays(&team, ROGUE), 2);
    assert_eq!((replays(&team, FOUNDER), replays(&team, MEMBER)), (0, 0));
    // An entry that is cut off runs again as void, and so do those that read it.
    team.call(FOUNDER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.stores[0].settle(100).unwrap();
    assert_eq!(replays(&team, ROGUE), 5);
    assert_eq!((replays(&team, FOUNDER), replays(&team, MEMBER)), (0, 0));
}
