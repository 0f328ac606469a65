//! How a port is named to the programs in the kernel (checklist A3, A4).

use flowhop_flow::Key;
use flowhop_flow::record::{PORT_SLOTS, PortKey, PortSlot, QUEUES, SOCKETS};

const KEYS: [PortKey; 5] = [
    PortKey { ifindex: 2, vid: 0 },
    PortKey { ifindex: 2, vid: 100 },
    PortKey { ifindex: 3, vid: 4094 },
    PortKey { ifindex: 0x7fff_ffff, vid: 1 },
    PortKey { ifindex: 100, vid: 2 },
];

#[test]
fn a_slot_holds_one_port_under_its_whole_key() {
    let slot = PortSlot::default();
    assert_eq!(slot.tenant(), None);
    assert!(KEYS.iter().all(|key| slot.port_of(*key).is_none()));
    for key in KEYS {
        for port in [1, 128, 255] {
            slot.0.store(PortSlot::word(key, port));
            assert_eq!(slot.tenant(), Some((key, port)));
            for other in KEYS {
                assert_eq!(slot.port_of(other), (other == key).then_some(port), "{other:?} where {key:?} is");
            }
        }
    }
}

#[test]
fn probes_go_to_one_slot_after_the_other_and_vlans_far_apart() {
    let slots = PORT_SLOTS as u32;
    for key in KEYS {
        let first = key.slot(0);
        assert_eq!(first, key.ifindex.wrapping_add(97 * u32::from(key.vid)) % slots);
        assert_eq!((key.slot(1), key.slot(slots)), ((first + 1) % slots, first));
    }
    assert_eq!(PortKey::of(7), PortKey { ifindex: 7, vid: 0 });
}

#[test]
fn every_queue_of_64_devices_has_a_place_for_a_socket() {
    assert_eq!(SOCKETS, 64 * QUEUES);
}

// B18: forwarding contexts keep the same addresses apart.
#[test]
fn an_identity_has_protocol_family_and_context() {
    let key = |identity| Key { source: [0; 4], destination: [0; 4], ports: 0, identity };
    for (protocol, family, context) in [(6, 4, 0), (17, 6, 1), (255, 4, 0xfffe), (0, 6, 0x1234)] {
        let key = key(Key::identity(protocol, family, context));
        assert_eq!((key.protocol(), key.family(), key.context()), (protocol, family, context));
    }
}
