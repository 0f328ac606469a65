//! What goes wrong around the daemon, and what becomes of it then.

use std::time::Duration;

use flowhop_tests::{Bed, Daemon, Family, Policy, alone, tools, until};

const SECONDS: Duration = Duration::from_secs(5);

// A device that vanishes takes nothing else along, and works again when it is back.
#[test]
fn a_device_that_vanishes_and_comes_back_is_taken_into_use_again() {
    let _turn = alone();
    let bed = Bed::new("vanish");
    let mut daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true));
    let host = Family::V4.outside_host();
    assert!(tools::ping(&bed.inside, host, 2).is_clean());
    bed.router.ip("link del wan0");
    let present = |daemon: &Daemon| {
        let interfaces = daemon.json("show interfaces");
        let interfaces = interfaces["interfaces"].as_array().expect("a list").clone();
        interfaces
            .iter()
            .any(|interface| interface["name"] == "wan" && interface["ifindex"].as_u64().is_some_and(|n| n > 0))
    };
    until("the interface to be absent", SECONDS, || (!present(&daemon)).then_some(()));
    assert_eq!(tools::ping(&bed.inside, host, 1).received, 0);
    assert!(daemon.is_alive());
    bed.connect_outside();
    until("the interface to be there", SECONDS, || present(&daemon).then_some(()));
    until("answers", SECONDS, || (tools::ping(&bed.inside, host, 1).received == 1).then_some(()));
}

// One daemon per network namespace; the second one says so and changes nothing.
#[test]
fn a_second_daemon_is_refused() {
    let _turn = alone();
    let bed = Bed::new("second");
    let mut daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true));
    let policy = daemon.state().join("..").join("policy.toml");
    for state in [daemon.state(), std::env::temp_dir().join(format!("fht-second-{}", std::process::id()))] {
        let binary = flowhop_tests::daemon::binary();
        let words = [binary.to_str(), Some("run"), Some("-c"), policy.to_str(), Some("--state"), state.to_str()];
        let words: Vec<&str> = words.into_iter().map(|word| word.expect("UTF-8")).collect();
        let output = bed.router.run_within(SECONDS, words[0], &words[1..]);
        assert_eq!(output.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains("another flowhop"), "{output:?}");
        if state != daemon.state() {
            // Also nothing that is mounted.
            std::fs::remove_dir_all(&state).expect("a directory with nothing of the kernel's in it");
        }
    }
    assert!(daemon.is_alive());
    assert!(tools::ping(&bed.inside, Family::V4.outside_host(), 2).is_clean());
}
