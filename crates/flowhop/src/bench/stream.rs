//! One TCP connection through the box.

use super::Bench;
use super::contestants::{NFTABLES, PLAIN, SKB};
use super::report::{Row, Section};
use crate::lab::daemon::Policy;
use crate::lab::traffic::stream;
use crate::lab::{Bed, Daemon, Family, LabError, Mode};

pub(super) const USER: &str = "flowhop user, NAT";

const METHOD: &str = "\
One TCP connection from the inside host to the outside host, large writes, offloads as the kernel makes veth devices: \
segmentation offload on, so packets of up to 64 kB go through the box. Sender and receiver run beside it.";

/// Runs it.
pub(super) fn streams(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "stream",
        title: "One TCP connection with segmentation offload",
        unit: "Gbit/s",
        method: METHOD,
        digits: 2,
        references: vec![NFTABLES, PLAIN],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut beds = Vec::new();
    for who in [SKB, USER, PLAIN, NFTABLES] {
        let bed = Bed::new()?;
        let mut daemon = None;
        match who {
            PLAIN => bed.kernel_forwards(true)?,
            NFTABLES => {
                if !bed.kernel_translates("masquerade")? {
                    section.notes.push("nft is not installed, so the kernel's own firewall is left out".to_owned());
                    continue;
                }
            }
            _ => {
                let mode = if who == USER { Mode::User } else { Mode::Chosen };
                let folder = bench.folder(if who == USER { "stream-user" } else { "stream-skb" });
                daemon = Some(Daemon::start(&bed, &folder, &Policy { mode, ..Policy::default() })?);
            }
        }
        for family in Family::BOTH {
            // IPv6 is filtered by all, and translated by none.
            section.rows.push(Row { condition: family.name().to_owned(), load: None, who, values: Vec::new() });
        }
        beds.push((who, bed, daemon));
    }
    for _ in 0..bench.rounds() {
        for (who, bed, _) in &beds {
            for family in Family::BOTH {
                let gigabits = stream(bed, family.outside_host(), bench.time())?.gigabits();
                let row = section.rows.iter_mut().find(|row| row.who == *who && row.condition == family.name());
                if let Some(row) = row {
                    row.values.push(gigabits);
                }
            }
        }
    }
    section.rows.sort_by(|a, b| a.condition.cmp(&b.condition));
    section.notes.push("NAT is for IPv4; IPv6 is filtered with state and not translated".to_owned());
    for (_, _, daemon) in beds {
        daemon.map_or(Ok(()), Daemon::stop)?;
    }
    Ok(section)
}
