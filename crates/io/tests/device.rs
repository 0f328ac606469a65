//! What devices can do, asked of the kernel of this machine, in network namespaces of the tests' own.
#![cfg(test)]

#[path = "netlink/support.rs"]
#[expect(dead_code, reason = "shared with the tests of the monitor")]
mod support;

use flowhop_io::device::{DeviceQueries, XdpFeatures};
use support::{in_own_namespace, ip};

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn ethtool(words: &str) {
    let output = std::process::Command::new("ethtool").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ethtool {words}: {}", String::from_utf8_lossy(&output.stderr));
}

// B9: whether the classifier can run in the driver.
#[test]
fn a_veth_runs_programs_in_its_driver() {
    in_own_namespace(|| {
        ip("link add name a numrxqueues 4 numtxqueues 4 type veth peer name b numrxqueues 1 numtxqueues 1");
        let mut queries = DeviceQueries::open().unwrap();
        let capabilities = queries.capabilities(index("a")).unwrap();
        assert_eq!(capabilities.driver, "veth");
        assert_eq!(queries.capabilities(index("b")).unwrap().max_queues, 1);
        let features = capabilities.xdp.expect("Linux 6.3 or later");
        assert!(features.contains(XdpFeatures::BASIC.union(XdpFeatures::REDIRECT).union(XdpFeatures::RX_SG)));
        assert!(!features.contains(XdpFeatures::HW_OFFLOAD));

        // A veth takes redirected packets while its other end polls, which generic receive offload has it do.
        assert!(!features.contains(XdpFeatures::NDO_XMIT));
        ip("link set dev a up");
        ip("link set dev b up");
        ethtool("-K b gro on");
        let features = queries.capabilities(index("a")).unwrap().xdp.unwrap();
        assert!(features.contains(XdpFeatures::NDO_XMIT.union(XdpFeatures::NDO_XMIT_SG)), "{features:?}");

        // It runs no programs when its other end sends on more queues than it has for receiving.
        let features = queries.capabilities(index("b")).unwrap().xdp.unwrap();
        assert!(!features.contains(XdpFeatures::BASIC), "{features:?}");
    });
}

#[test]
fn the_number_of_queues_is_the_present_one() {
    in_own_namespace(|| {
        ip("link add name a numrxqueues 4 numtxqueues 4 type veth peer name b numrxqueues 4 numtxqueues 4");
        let mut queries = DeviceQueries::open().unwrap();
        for wanted in [1, 3, 2, 4] {
            ethtool(&format!("-L a rx {wanted} tx {wanted}"));
            let capabilities = queries.capabilities(index("a")).unwrap();
            assert_eq!((capabilities.queues, capabilities.max_queues), (wanted, 4));
        }
    });
}

#[test]
fn devices_that_do_not_tell_have_one_queue_and_offer_nothing() {
    in_own_namespace(|| {
        ip("link add name br type bridge");
        let mut queries = DeviceQueries::open().unwrap();
        let bridge = queries.capabilities(index("br")).unwrap();
        assert_eq!((bridge.driver.as_str(), bridge.queues, bridge.max_queues), ("bridge", 1, 1));
        assert_eq!(bridge.xdp, Some(XdpFeatures::default()));
        let lo = queries.capabilities(index("lo")).unwrap();
        assert_eq!((lo.driver.as_str(), lo.queues, lo.max_queues), ("", 1, 1));
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_the_next_question_is_answered() {
    in_own_namespace(|| {
        ip("link add name a type veth peer name b");
        let mut queries = DeviceQueries::open().unwrap();
        let a = index("a");
        assert_eq!(queries.capabilities(9999).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        let before = queries.capabilities(a).unwrap();
        for _ in 0..1000 {
            assert_eq!(queries.capabilities(a).unwrap(), before);
        }
        ip("link del dev a");
        assert_eq!(queries.capabilities(a).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    });
}
