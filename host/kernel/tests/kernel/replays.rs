//! How often entries run again, counted by the author whose late entry is the cause.

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
    // The rogue's entry is written first and arrives last. It changes what the founder's copy reads, and through that
    // copy what the member's copy reads.
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
    // The two copies ran again. The last entry read none of the changed keys and did not.
    assert_eq!(replays(&team, ROGUE), 2);
    assert_eq!((replays(&team, FOUNDER), replays(&team, MEMBER)), (0, 0));
    // The rogue's entry is cut off and runs again as void, and the two copies run again.
    team.call(FOUNDER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.stores[0].settle(100).unwrap();
    assert_eq!(replays(&team, ROGUE), 5);
    assert_eq!((replays(&team, FOUNDER), replays(&team, MEMBER)), (0, 0));
}
