//! Shadow mode: packets that kernel programs have forwarded are judged once more, and what differs is kept.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;

use flowhop_engine::{Difference, Differing};
use flowhop_flow::record::Tick;
use flowhop_flow::shadow::{HEAD, Sample, sample_flags};
use flowhop_wire::ethertype;
use serde_json::json;

use super::Daemon;
use super::plane::Plane;
use super::state;
use crate::replay::output::Output;

/// Samples that are compared before other work gets its turn.
const BATCH: usize = 64;

impl Daemon {
    /// Compares what waits to be compared, up to a batch.
    pub(super) fn compare_samples(&mut self, now: Tick) {
        for _ in 0..BATCH {
            let Plane::Kernel(kernel) = &mut self.outside.plane else { return };
            let Some(sample) = kernel.next_sample() else { return };
            if let Some(difference) = self.engine.compare(&sample, now) {
                self.tell_difference(&sample, &difference);
            }
        }
    }

    fn tell_difference(&mut self, sample: &Sample, difference: &Difference) {
        let program = if sample.flags & sample_flags::DRIVER == 0 { "on the socket buffer" } else { "in the driver" };
        let what = match difference.what {
            Differing::Verdict(reason) => format!("the daemon would not have forwarded it ({})", reason.name()),
            Differing::Output(ifindex) => format!("the daemon would have sent it to interface {ifindex}"),
            Differing::Bytes => "the daemon makes something else of it".to_owned(),
            Differing::Policy => "there should be no such flow".to_owned(),
        };
        let (flow, _) = difference.session;
        let place = self.keep_difference(sample, difference, &what);
        let kept = match &place {
            Ok(Some(path)) => format!("kept as {}", path.display()),
            Ok(None) => "not kept, as others were".to_owned(),
            Err(error) => format!("it cannot be kept: {error}"),
        };
        say!(
            "flowhop: shadow mode: the program {program} forwarded a packet of flow {flow}, and {what}; the flow is on the user path from now on; {kept}"
        );
    }

    /// Keeps a capture of the packet as it came, of what the program and of what the daemon made of it, and beside it the
    /// flow's state.
    fn keep_difference(&mut self, sample: &Sample, difference: &Difference, what: &str) -> io::Result<Option<PathBuf>> {
        let Some([capture, context]) = state::difference(self.differences) else { return Ok(None) };
        self.differences += 1;
        let path = self.state.path().join(capture);
        let mut output = Output::new(BufWriter::new(File::create(&path)?), true)?;
        let kept = usize::from(sample.kept).min(HEAD);
        for head in [&sample.before[..kept], &sample.after[..kept], &difference.expected] {
            output.write(0, &framed(head, sample.network))?;
        }
        output.finish()?;
        let (flow, direction) = difference.session;
        let [own, peer] = [0, 3].map(|at| sample.tcp.get(at..at + 3).unwrap_or_default());
        let side = |words: &[u64]| words.iter().map(|word| format!("{word:#018x}")).collect::<Vec<_>>();
        let text = json!({
            "version": 1,
            "difference": what,
            "flow": flow,
            "direction": if direction == 0 { "forward" } else { "reverse" },
            "driver": sample.flags & sample_flags::DRIVER != 0,
            "port": sample.port,
            "output": sample.ifindex,
            "length": sample.length,
            "segment": sample.segment,
            "steer": format!("{:#018x}", sample.steer),
            "tcp": { "own": side(own), "peer": side(peer) },
        });
        std::fs::write(self.state.path().join(context), format!("{text:#}\n"))?;
        Ok(Some(path))
    }
}

/// A head with a link-layer header, which the links of some interfaces have not.
fn framed(head: &[u8], network: u8) -> Vec<u8> {
    if network != 0 {
        return head.to_vec();
    }
    let kind = if head.first().is_some_and(|first| first >> 4 == 4) { ethertype::IPV4 } else { ethertype::IPV6 };
    [&[0; 12], &kind.to_be_bytes()[..], head].concat()
}
