//! Packets of other kinds through the box: longer ones, IPv6, with a tag.

use super::Bench;
use super::contestants::{Contestant, DRIVER, DRIVER_REDIRECT, NFTABLES, PLAIN, REDIRECT, SKB};
use super::load::{Form, Load, Shape, Size};
use super::rate::race;
use super::report::Section;
use crate::lab::LabError;

const METHOD: &str = "\
Measured as small packets of many flows are, with one number of flows, at random. Lengths are those of Ethernet frames \
without their checksum. IMIX is of twelve frames, at random, seven of 60 bytes, four of 590 and one of 1514. A veth \
device hands frames over without copying them, so longer ones cost more only where somebody reads or copies them, and no link \
becomes full. Frames of IPv6 are 80 bytes long: as much payload as the 60 bytes of IPv4. NAT is for IPv4; IPv6 is \
filtered with state and not translated, by flowhop and by nftables. A priority tag is an 802.1Q tag in frames that come in \
which names no VLAN: that needs no VLAN devices, which not every kernel has. flowhop and the kernel take it off, the bare \
redirects leave it. Between VLANs flowhop's program would change the tag where it is. The flows of each protocol and family \
go through routers that know no others.";

/// Runs it.
pub(super) fn packets(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "packets",
        title: "Other packets",
        unit: "Mpacket/s",
        method: METHOD,
        digits: 2,
        references: vec![DRIVER_REDIRECT, REDIRECT, NFTABLES],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let flows = bench.middle();
    let wanted: &[&str] = if bench.quick {
        &[DRIVER_REDIRECT, DRIVER, NFTABLES]
    } else {
        &[DRIVER_REDIRECT, DRIVER, REDIRECT, SKB, PLAIN, NFTABLES]
    };
    for (number, loads) in loads(flows, bench.quick).into_iter().enumerate() {
        let folder = format!("packets-{number}");
        let mut contestants = Contestant::all(wanted, bench, &folder, flows, &mut section)?;
        for load in loads {
            race(bench, &mut section, &mut contestants, load)?;
        }
        contestants.into_iter().try_for_each(Contestant::end)?;
    }
    Ok(section)
}

/// What is sent, each of one protocol and family by itself.
fn loads(flows: u32, quick: bool) -> [Vec<Load>; 3] {
    let plain = Form::plain(Shape::Udp);
    let sizes: &[Size] = if quick {
        &[Size::Shortest, Size::Mix]
    } else {
        &[Size::Shortest, Size::Bytes(590), Size::Bytes(1514), Size::Mix]
    };
    let mut v4: Vec<Load> = sizes.iter().map(|&size| Load::of(plain, size, flows)).collect();
    v4.push(Load::of(Form::tagged(Shape::Udp), Size::Shortest, flows));
    let [udp, tcp] = [Shape::Udp, Shape::Ack].map(|shape| vec![Load::of(Form::v6(shape), Size::Shortest, flows)]);
    [v4, udp, tcp]
}
