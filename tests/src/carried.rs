//! Real tools through the router, and the ways that their packets must have taken.

use serde_json::Value;

use crate::bed::{Bed, Family, endpoint};
use crate::daemon::Daemon;
use crate::numbered::{self, Load};
use crate::tools::{self, HttpServer};

/// Where the numbered packets go.
const PORT: u16 = 5001;

/// Path and reason of both directions.
pub fn ways(flow: &Value) -> [(&str, &str); 2] {
    ["forward", "reverse"].map(|direction| {
        let text = |key: &str| flow[direction][key].as_str().unwrap_or("?");
        (text("path"), text("path_reason"))
    })
}

/// Real tools and numbers both ways, and the ways that they must have taken.
#[track_caller]
pub fn assert_carried(bed: &Bed, daemon: &Daemon, expected: [(&str, &str); 2], context: &str) {
    for family in Family::BOTH {
        let context = format!("{context}, {family:?}");
        let host = family.outside_host();
        let ping = tools::ping(&bed.inside, host, 5);
        assert!(ping.is_clean(), "{context}: {ping:?}");
        let server = HttpServer::start(&bed.outside, host);
        tools::assert_download(&bed.inside, &server);
        let bulk = tools::iperf3(&bed.inside, &bed.outside, host, 1);
        assert!(bulk.bits_per_second > 1e7, "{context}: {bulk:?}");
        let load = Load::new(host, PORT).flows(10).rate(10_000, 600).size(600).echo();
        numbered::run(&bed.inside, &bed.outside, &load).assert_clean(&context);
        let flows = daemon.flows_to(&endpoint(host, PORT));
        assert_eq!(flows.len(), 10, "{context}");
        for flow in flows {
            assert_eq!(ways(&flow), expected, "{context}: {flow}");
            for direction in ["forward", "reverse"] {
                assert_eq!(flow[direction]["packets"], load.packets / 10, "{context}: {flow}");
            }
        }
    }
}
