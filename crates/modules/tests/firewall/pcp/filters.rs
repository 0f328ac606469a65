//! FILTER: who may send to a mapping (RFC 6887 section 13.3).

use flowhop_wire::pcp::ResultCode;
use flowhop_wire::protocol::TCP;

use super::{Ask, HOST, filter_option, policy};
use crate::bed::Bed;

#[test]
fn filters_let_in_whom_they_name() {
    let mut bed = Bed::with(&policy(""));
    let (first, net, none) = (
        filter_option(128, 0, "198.51.100.2"),
        filter_option(96 + 30, 7000, "198.51.100.4"),
        filter_option(0, 0, "0.0.0.0"),
    );
    let ask = Ask::new(TCP, 80);
    let got = bed.ask(&ask.with(&first));
    assert_eq!((got.result, &got.whole[60..]), (0, &first[..]));
    let external = got.external;
    let mut port = 1000;
    let mut reached = |bed: &mut Bed, from: &str| {
        port += 1;
        let from = if from.contains(':') { from.to_owned() } else { format!("{from}:{port}") };
        bed.reached(&from, external, "10.1.0.2:80")
    };
    assert!(reached(&mut bed, "198.51.100.2"));
    assert!(!reached(&mut bed, "198.51.100.3"));
    // Added to what there is.
    bed.granted(&ask.with(&net));
    assert!(reached(&mut bed, "198.51.100.2"));
    assert!(reached(&mut bed, "198.51.100.6:7000") && reached(&mut bed, "198.51.100.7:7000"));
    assert!(!reached(&mut bed, "198.51.100.6:7001") && !reached(&mut bed, "198.51.100.8:7000"));
    // Renewed without options they stay; in place of others, and gone.
    bed.granted(&ask);
    assert!(!reached(&mut bed, "198.51.100.3"));
    bed.granted(&ask.with(&[none.clone(), filter_option(128, 0, "198.51.100.3")].concat()));
    assert!(reached(&mut bed, "198.51.100.3") && !reached(&mut bed, "198.51.100.2"));
    bed.granted(&ask.with(&none));
    assert!(reached(&mut bed, "198.51.100.2") && reached(&mut bed, "198.51.100.99"));
}

#[test]
fn filters_that_cannot_be_change_nothing() {
    let mut bed = Bed::with(&policy(""));
    let ask = Ask::new(TCP, 80);
    let good = filter_option(128, 0, "198.51.100.2");
    let external = bed.granted(&ask.with(&good));
    for bad in [
        filter_option(95, 0, "198.51.100.3"),
        filter_option(129, 0, "198.51.100.3"),
        filter_option(128, 0, "2001:db8::3"),
        vec![3, 0, 0, 4, 0, 128, 0, 0],
    ] {
        let both = [filter_option(0, 0, "0.0.0.0"), bad].concat();
        bed.denied(&ask.with(&both), ResultCode::MalformedOption);
    }
    bed.denied(&ask.with(&good).lasting(0), ResultCode::MalformedOption);
    let many: Vec<u8> = (0..17).flat_map(|host| filter_option(128, 0, &format!("198.51.100.{}", 100 + host))).collect();
    bed.denied(&ask.with(&many), ResultCode::ExcessiveRemotePeers);
    let full: Vec<u8> = (0..40).flat_map(|_| filter_option(128, 0, "198.51.100.2")).collect();
    assert_eq!(bed.ask(&ask.with(&full)).whole.len(), 60 + 40 * 24, "the same one forty times is one");
    assert!(bed.reached("198.51.100.2:9", external, "10.1.0.2:80"));
    assert!(!bed.reached("198.51.100.3:9", external, "10.1.0.2:80"));
    assert_eq!(bed.ask(&ask.of(HOST).lasting(0)).result, 0);
}
