//! Clauses that do not hold, or are overruled, and have no neighbour that is tried.

use super::clause::Level::{Must, Should};
use super::clause::{Clause, overruled, unmet};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    unmet(
        1812,
        "4.2.3.1",
        Should,
        "forwards to the first address of a link's network as to any host of it",
        "the address is a broadcast address nowhere any more, and Linux gives it to hosts",
    ),
    unmet(
        1812,
        "4.3.2.5, type of service",
        Should,
        "sends errors with class selector 6, whatever the packet had",
        "of the octet, the precedence is left today (RFC 2474 section 4.2); the one that errors should have has its place",
    ),
    overruled(
        1812,
        "5.3.8, default for links",
        Must,
        "drops sources on the link of another interface even without `rpf`",
        "flowhop is to refuse spoofed inside sources without being told to; what comes by another route is a question of `rpf`",
    ),
    overruled(
        1812,
        "5.3.13.3",
        Must,
        "drops packets with a stream identifier unless `[ip]` lets obsolete options pass",
        "RFC 7126 section 4.6 (BCP 186) has them dropped",
    ),
    overruled(
        1812,
        "5.3.13.4",
        Must,
        "drops source routes, always",
        "flowhop is to drop source routes, as RFC 7126 sections 4.3 and 4.4 (BCP 186) have it",
    ),
    overruled(
        1812,
        "5.3.13.5, default",
        Must,
        "drops record route unless `[ip]` lets it pass or has it recorded",
        "RFC 7126 section 4.5 (BCP 186) has it dropped by default",
    ),
    overruled(
        1812,
        "5.3.13.6, default",
        Must,
        "drops timestamps unless `[ip]` lets them pass or has them recorded",
        "RFC 7126 section 4.7 (BCP 186) has them dropped",
    ),
    unmet(
        5508,
        "REQ-10 d",
        Should,
        "sends errors with class selector 6, not with the class of the packet",
        "RFC 1812 section 4.3.2.5 and this one cannot both be met",
    ),
    unmet(
        6398,
        "5, fast path",
        Should,
        "takes packets with router alert by the slow path, as those with any option",
        "the kernel paths forward only headers without options",
    ),
    unmet(
        6890,
        "2.2.1, default",
        Should,
        "drops by default what RFC 1812 calls invalid alone",
        "the prefixes of documentation are in use in laboratories; `martians = \"registry\"` of an interface drops them",
    ),
    unmet(
        7112,
        "5, key",
        Should,
        "drops first fragments without the whole chain of headers, always",
        "rules could not be asked about them",
    ),
    unmet(
        7126,
        "4.8, key",
        Should,
        "can drop or pass router alert, but does nothing by it",
        "nothing here listens for router alert",
    ),
    unmet(
        7126,
        "4.21, key",
        Should,
        "can drop or pass Quick-Start with other unknown options, but does not process it",
        "Quick-Start (RFC 4782) is an experiment, and is not built",
    ),
    unmet(
        7126,
        "4.3, 4.4, keys",
        Should,
        "has no key by which source routes are passed or followed",
        "as RFC 1812 5.3.13.4",
    ),
    unmet(
        8200,
        "4, order, answer",
        Should,
        "drops hop-by-hop options elsewhere than first without an answer",
        "the RFC means this for nodes that process the header, which a router that forwards does not have to",
    ),
];
