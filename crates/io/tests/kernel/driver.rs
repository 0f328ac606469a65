//! The program in the driver on real devices: frames come in from a wire and leave on another one (checklist A3, A8).

use flowhop_flow::Reason;
use flowhop_flow::record::PortKey;
use flowhop_io::bpf::{Attachment, IndexKind};

use super::common::{ADJACENCY, Bed, FORWARD, Flow, NEIGHBOUR, Wire, checksums_are_right, in_namespaces, ip};

/// A frame with a VLAN tag; of tag 0 none.
fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if tag != 0 {
        let [high, low] = tag.to_be_bytes();
        bytes.splice(12..12, [0x81, 0, high, low]);
    }
    bytes
}

// In and out: no tag, the same, another one, one that comes off and one that goes on, with the priority that came; and
// a tag that names no VLAN.
#[test]
fn frames_leave_with_the_tag_of_their_output() {
    in_namespaces(|| {
        // A device offers to take frames while its peer coalesces.
        let mut bed = Bed::new(IndexKind::Lines);
        for device in ["lan-peer", "wan-peer"] {
            let done = std::process::Command::new("ethtool").args(["-K", device, "gro", "on"]).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("not run: ethtool is missing");
                return;
            }
            ip(&format!("link set {device} up"));
        }
        let (sender, receiver) = (Wire::open("lan-peer"), Wire::open("wan-peer"));
        for (came, vid, left) in [
            (0, 0, 0),
            (10, 0, 0),
            (0, 20, 20),
            (0xa00a, 10, 0xa00a),
            (0x600a, 20, 0x6014),
            (0xe000, 0, 0),
            (0xe000, 20, 0xe014),
        ] {
            let port = PortKey { ifindex: bed.lan, vid: came & 0xfff };
            let (lan, mac) = (bed.lan, bed.lan_mac);
            bed.kernel.attach(&Attachment { driver: Some(port), ..Attachment::skb(lan, 1, mac) }).unwrap();
            let mut hop = bed.kernel.shared().adjacencies[ADJACENCY].read().unwrap();
            hop.vid = vid;
            bed.kernel.shared().adjacencies[ADJACENCY].write(&hop);
            for flow in [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6(), Flow::echo4(), Flow::echo6()] {
                bed.insert(&flow, FORWARD);
                let frame = flow.frame();
                sender.send(&tagged(&frame, came));
                let arrived = receiver.expect(|got| got[..6] == NEIGHBOUR);
                let plain = if left == 0 { arrived.clone() } else { [&arrived[..12], &arrived[16..]].concat() };
                assert_eq!(arrived, tagged(&plain, left), "{came:#x} to VLAN {vid}");
                assert_eq!(plain.len(), frame.len());
                assert!(checksums_are_right(&plain), "{flow:?}");
                bed.remove_all();
            }
        }
        let forwarded = bed.kernel.driver_counters(1).unwrap().of(Reason::Forwarded).packets;
        assert_eq!(forwarded, 7 * 6);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::Forwarded).packets, 0);
    });
}
