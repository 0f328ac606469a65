//! Clauses about mappings that hosts ask for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::pcp::{self, Filter, Map, RequestHeader, ResponseHeader, ResultCode, opcode};
use flowhop_wire::protocol;

use super::clause::Level::Should;
use super::clause::{Clause, must, should, unmet};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PCP};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        6888,
        "REQ-9",
        &PCP,
        reached,
        "speaks the Port Control Protocol where `[pcp]` is in the policy: hosts are reached from outside by what they ask for",
    ),
    must(6887, "7.3, errors", &PCP, errors, "copies a request that it refuses into the answer, and changes nothing"),
    must(
        6887,
        "7.3, options",
        &PCP,
        option_errors,
        "refuses options that cannot be read (MALFORMED_OPTION), and unknown ones that are mandatory (UNSUPP_OPTION)",
    ),
    must(6887, "8.2, interface", &PCP, not_outside, "does not answer requests that come from outside"),
    must(6887, "8.2, without", &MASQUERADE, nobody, "answers nobody unless `[pcp]` is in the policy"),
    must(
        6887,
        "8.2, address",
        &PCP,
        mismatch,
        "refuses a request that names another address than it comes from (ADDRESS_MISMATCH)",
    ),
    must(
        6887,
        "8.2, silence",
        &PCP,
        silence,
        "drops responses and what is shorter than a header, counted as `pcp_invalid`",
    ),
    must(6887, "9", &PCP, version, "refuses other versions with its own, NAT-PMP's as well (UNSUPP_VERSION)"),
    must(
        6887,
        "11.3, protocols",
        &PCP,
        protocols,
        "refuses what it cannot map: all ports, all protocols, others than TCP and UDP",
    ),
    must(6887, "11.3, nonce", &PCP, nonce, "lets nobody change a mapping who does not know its nonce (NOT_AUTHORIZED)"),
    must(
        6887,
        "11.3, static",
        &PCP,
        published,
        "answers with a published service where there is one, and does not delete it",
    ),
    must(6887, "11.3, renewal", &PCP, renewed, "keeps the external endpoint of a mapping that is asked for again"),
    should(6887, "11.3, outbound", &PCP, outbound, "grants the external endpoint by which a host is known already"),
    should(
        6887,
        "11.3, suggestion",
        &PCP,
        suggested,
        "grants the external endpoint that is suggested, if it is to be had",
    ),
    must(6887, "11.3, another", &PCP, suggested, "grants another one if it is not"),
    must(6887, "11.3, one protocol", &PCP, one_protocol, "opens nothing for another protocol than is asked for"),
    must(6887, "11.3, own ports", &PCP, own_ports, "maps no UDP to the external ports 5350 and 5351"),
    should(6887, "11.3, limit", &PCP, limit, "limits the mappings of a host to `limit` (USER_EX_QUOTA)"),
    must(6887, "13.1", &PCP, third_party, "refuses mappings for other hosts (UNSUPP_OPTION)"),
    must(
        6887,
        "13.2",
        &PCP,
        prefer_failure,
        "grants nothing where another endpoint than the suggested one will not do (PREFER_FAILURE)",
    ),
    must(6887, "13.3", &PCP, filtered, "lets in whom filters name, and nobody else"),
    must(6887, "13.3, many", &PCP, filtered, "refuses more than 16 filters of a mapping (EXCESSIVE_REMOTE_PEERS)"),
    must(6887, "14.1", &PCP, announced, "answers ANNOUNCE"),
    should(6887, "15", &PCP, lifetimes, "grants no less than `min_lifetime` and no more than `max_lifetime`"),
    must(
        6887,
        "15.1",
        &PCP,
        deleted,
        "deletes a mapping whose lifetime is to be zero, but none that it has not granted",
    ),
    should(
        6887,
        "15, reuse",
        &PCP,
        reused,
        "gives the external port of a deleted mapping to no other host for 120 seconds",
    ),
    should(6887, "17.2", &PCP, limit, "has a quota of mappings for each host"),
    unmet(
        6887,
        "12",
        Should,
        "does not speak PEER (UNSUPP_OPCODE)",
        "what it would prolong is kept by traffic, and by the timeouts of the policy",
    ),
    unmet(
        6887,
        "13.1, providers",
        Should,
        "permits no host to map others",
        "who may would have to be authenticated; the operator has `translate.destination`",
    ),
    unmet(
        6887,
        "14.2",
        Should,
        "sends no Mapping Update when mappings are lost, but announces that they are",
        "one of the two mechanisms is required; hosts ask again within seconds",
    ),
    unmet(
        6887,
        "15, reuse, TCP",
        Should,
        "has the external port of a deleted TCP mapping rest for 2 minutes by default, not for 124",
        "as that of every other mapping (RFC 6888 REQ-8); `port_rest` makes it longer",
    ),
];

/// A request for a mapping.
#[derive(Clone, Copy)]
struct Ask<'a> {
    inside: SocketAddr,
    protocol: u8,
    lifetime: u32,
    suggested: SocketAddr,
    nonce: [u8; 12],
    options: &'a [u8],
}

/// What it was answered with.
struct Answer {
    result: u8,
    lifetime: u32,
    external: SocketAddr,
    whole: Vec<u8>,
}

const NONE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

impl<'a> Ask<'a> {
    const fn new(inside: SocketAddr) -> Self {
        Self { inside, protocol: protocol::UDP, lifetime: 600, suggested: NONE, nonce: [7; 12], options: &[] }
    }

    fn of(field: &Field, host: u8) -> Self {
        Self::new(SocketAddr::new(Side::Inside.host(false, host), field.fresh()))
    }

    const fn lasting(self, lifetime: u32) -> Self {
        Self { lifetime, ..self }
    }

    const fn like(self, suggested: SocketAddr) -> Self {
        Self { suggested, ..self }
    }

    const fn with(self, options: &'a [u8]) -> Self {
        Self { options, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = RequestHeader {
            version: pcp::VERSION,
            opcode: opcode::MAP,
            reserved: 0.into(),
            lifetime: self.lifetime.into(),
            client: mapped(self.inside.ip()),
        };
        let map = Map {
            nonce: self.nonce,
            protocol: self.protocol,
            reserved: [0; 3],
            internal_port: self.inside.port().into(),
            external_port: self.suggested.port().into(),
            external_address: mapped(self.suggested.ip()),
        };
        [header.bytes(), map.bytes(), self.options].concat()
    }

    fn answered(&self, field: &Field) -> Result<Answer, Fault> {
        let whole = exchange(field, self.inside.ip(), &self.bytes())?;
        let short = || Fault(format!("an answer of {} bytes", whole.len()));
        let (header, rest) = ResponseHeader::split(&whole).ok_or_else(short)?;
        let (map, _) = Map::split(rest).ok_or_else(short)?;
        let address = Ipv6Addr::from(map.external_address).to_canonical();
        let external = SocketAddr::new(address, map.external_port.get());
        let copied = (map.nonce, map.protocol, map.internal_port.get());
        holds(copied == (self.nonce, self.protocol, self.inside.port()), || {
            "the answer is about another one".to_owned()
        })?;
        let (result, lifetime) = (header.result, header.lifetime.get());
        Ok(Answer { result, lifetime, external, whole })
    }

    /// The external endpoint that is granted.
    fn granted(&self, field: &Field) -> Result<SocketAddr, Fault> {
        let answer = self.answered(field)?;
        holds(answer.result == 0, || format!("result {}", answer.result))?;
        Ok(answer.external)
    }

    fn refused(&self, field: &Field, result: ResultCode) -> Result<Answer, Fault> {
        let answer = self.answered(field)?;
        holds(answer.result == result as u8, || format!("result {} instead of {}", answer.result, result as u8))?;
        Ok(answer)
    }

    /// Ends the mapping.
    fn ends(&self, field: &Field) -> Result<(), Fault> {
        let end = Ask { options: &[], suggested: NONE, lifetime: 0, ..*self };
        end.granted(field).map(drop)
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

const fn server() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)), pcp::SERVER_PORT)
}

/// Sends a message to the server; the answer.
fn exchange(field: &Field, host: IpAddr, message: &[u8]) -> Result<Vec<u8>, Fault> {
    let client = SocketAddr::new(host, field.fresh());
    field.send(Side::Inside, &Spec::udp(client, server(), message))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.from() == server() && seen.to() == client;
    let seen = field.expect(Side::Inside, "an answer of the server", is)?;
    Ok(seen.l4().get(8..usize::from(seen.word(4))).unwrap_or_default().to_vec())
}

/// That a message is not answered.
fn unanswered(field: &Field, side: Side, host: IpAddr, server: SocketAddr, message: &[u8]) -> Result<(), Fault> {
    let client = SocketAddr::new(host, field.fresh());
    field.send(side, &Spec::udp(client, server, message))?;
    field.nothing(side, "an answer", |seen| seen.protocol == protocol::UDP && seen.to() == client)
}

/// A stranger outside.
fn stranger(field: &Field) -> SocketAddr {
    SocketAddr::new(Side::Outside.host(false, 1), field.fresh())
}

fn reached(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let external = ask.granted(field)?;
    for _ in 0..2 {
        let from = stranger(field);
        field.admits(from, external, ask.inside)?;
        field.admits(from, external, ask.inside)?;
    }
    let seen = field.udp_out(ask.inside, field.at(Side::Outside, false))?;
    holds(seen == external, || format!("it is reached by {external} and known by {seen}"))?;
    ask.ends(field)?;
    field.refuses(stranger(field), external, ask.inside)
}

fn errors(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let bad = ask.with(&[3, 0, 0, 4, 0, 128, 0, 0]);
    let answer = bad.refused(field, ResultCode::MalformedOption)?;
    let request = bad.bytes();
    holds(answer.whole.get(24..) == request.get(24..), || "the request is not copied".to_owned())?;
    holds(answer.lifetime == 1800, || format!("for {} seconds", answer.lifetime))?;
    let seen = field.udp_out(ask.inside, field.at(Side::Outside, false))?;
    field.refuses(stranger(field), seen, ask.inside)
}

fn option_errors(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    for (options, result) in [
        (&[3, 0, 0, 20][..], ResultCode::MalformedOption),
        (&[2, 0, 0, 0, 2, 0, 0, 0], ResultCode::MalformedOption),
        (&[60, 0, 0, 0], ResultCode::UnsupportedOption),
    ] {
        ask.like(SocketAddr::new(NONE.ip(), 20_001)).with(options).refused(field, result)?;
    }
    let answer = ask.with(&[200, 0, 0, 4, 1, 2, 3, 4]).answered(field)?;
    holds(answer.result == 0 && answer.whole.len() == 60, || "an optional option was not ignored".to_owned())?;
    ask.ends(field)
}

fn not_outside(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let host = Side::Outside.host(false, 0);
    let message = Ask { inside: SocketAddr::new(host, 9000), ..ask }.bytes();
    let outer = SocketAddr::new([198, 51, 100, 1].into(), pcp::SERVER_PORT);
    for to in [outer, server()] {
        unanswered(field, Side::Outside, host, to, &message)?;
    }
    Ok(())
}

fn nobody(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    unanswered(field, Side::Inside, ask.inside.ip(), server(), &ask.bytes())
}

fn mismatch(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let other = Side::Inside.host(false, 1);
    let answer = exchange(field, other, &ask.bytes())?;
    let result = answer.get(3).copied();
    holds(result == Some(ResultCode::AddressMismatch as u8), || format!("result {result:?}"))
}

fn silence(field: &Field) -> Result<(), Fault> {
    let before = field.drops("pcp_invalid")?;
    let ask = Ask::of(field, 0);
    let mut response = ask.bytes();
    response[1] |= 0x80;
    for message in [&response[..], &[2], &ask.bytes()[..20]] {
        unanswered(field, Side::Inside, ask.inside.ip(), server(), message)?;
    }
    let counted = field.drops("pcp_invalid")? - before;
    holds(counted == 3, || format!("{counted} of 3 were counted"))
}

fn version(field: &Field) -> Result<(), Fault> {
    for version in [0, 1, 3] {
        let mut message = Ask::of(field, 0).bytes();
        message[0] = version;
        let answer = exchange(field, Side::Inside.host(false, 0), &message)?;
        let head = answer.get(..4).unwrap_or_default();
        holds(head == [2, 0x81, 0, 1], || format!("version {version} is answered with {head:?}"))?;
    }
    Ok(())
}

fn protocols(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let all_ports = SocketAddr::new(ask.inside.ip(), 0);
    for (inside, protocol, result) in [
        (ask.inside, 132, ResultCode::UnsupportedProtocol),
        (all_ports, 17, ResultCode::UnsupportedProtocol),
        (all_ports, 0, ResultCode::UnsupportedProtocol),
        (ask.inside, 0, ResultCode::MalformedRequest),
    ] {
        Ask { inside, protocol, ..ask }.refused(field, result)?;
    }
    Ok(())
}

fn nonce(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let external = ask.granted(field)?;
    let guess = Ask { nonce: [8; 12], ..ask };
    for lifetime in [0, 900] {
        let answer = guess.lasting(lifetime).refused(field, ResultCode::NotAuthorized)?;
        holds((590..=601).contains(&answer.lifetime), || format!("for {} seconds", answer.lifetime))?;
    }
    field.admits(stranger(field), external, ask.inside)?;
    ask.ends(field)
}

fn published(field: &Field) -> Result<(), Fault> {
    let inside = SocketAddr::new(Side::Inside.host(false, 3), 8053);
    let ask = Ask::new(inside);
    let answer = ask.answered(field)?;
    let right = SocketAddr::new([198, 51, 100, 1].into(), 2053);
    holds(answer.result == 0 && answer.external == right && answer.lifetime == u32::MAX, || {
        format!("{} for {} seconds", answer.external, answer.lifetime)
    })?;
    ask.lasting(0).refused(field, ResultCode::NotAuthorized).map(drop)
}

fn renewed(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let external = ask.granted(field)?;
    let again = ask.like(SocketAddr::new(external.ip(), 20_999)).granted(field)?;
    holds(again == external, || format!("{external} became {again}"))?;
    ask.ends(field)
}

fn outbound(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let seen = field.udp_out(ask.inside, field.at(Side::Outside, false))?;
    field.refuses(stranger(field), seen, ask.inside)?;
    let external = ask.granted(field)?;
    holds(external == seen, || format!("{external}, though it is known by {seen}"))?;
    field.admits(stranger(field), seen, ask.inside)?;
    ask.ends(field)?;
    field.refuses(stranger(field), seen, ask.inside)
}

/// An external endpoint that nobody has.
fn free(field: &Field) -> SocketAddr {
    SocketAddr::new([198, 51, 100, 1].into(), field.fresh())
}

fn suggested(field: &Field) -> Result<(), Fault> {
    let (first, second, wanted) = (Ask::of(field, 0), Ask::of(field, 1), free(field));
    let external = first.like(wanted).granted(field)?;
    holds(external == wanted, || format!("{external} instead of {wanted}"))?;
    let other = second.like(wanted).granted(field)?;
    holds(other != wanted, || format!("two hosts have {wanted}"))?;
    field.admits(stranger(field), other, second.inside)?;
    first.ends(field)?;
    second.ends(field)
}

fn one_protocol(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let external = ask.granted(field)?;
    field.send(Side::Outside, &Spec::tcp(stranger(field), external, flowhop_wire::tcp_flags::SYN, &[]))?;
    field.nothing(Side::Inside, "a SYN", |seen| seen.protocol == protocol::TCP && seen.to() == ask.inside)?;
    ask.ends(field)
}

fn own_ports(field: &Field) -> Result<(), Fault> {
    for port in [5350, 5351] {
        let ask = Ask::new(SocketAddr::new(Side::Inside.host(false, 0), port));
        let external = ask.like(SocketAddr::new([198, 51, 100, 1].into(), port)).granted(field)?;
        holds(![5350, 5351].contains(&external.port()), || format!("it was {external}"))?;
        ask.ends(field)?;
    }
    Ok(())
}

fn limit(field: &Field) -> Result<(), Fault> {
    let all: Vec<Ask<'_>> = (0..8).map(|_| Ask::of(field, 2)).collect();
    for ask in &all {
        ask.granted(field)?;
    }
    Ask::of(field, 2).refused(field, ResultCode::UserExceedsQuota)?;
    all.iter().try_for_each(|ask| ask.ends(field))
}

fn third_party(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    for (host, result) in [(1, ResultCode::UnsupportedOption), (0, ResultCode::MalformedRequest)] {
        let option = [&[1, 0, 0, 16][..], &mapped(Side::Inside.host(false, host))].concat();
        ask.with(&option).refused(field, result)?;
    }
    Ok(())
}

fn prefer_failure(field: &Field) -> Result<(), Fault> {
    const PREFER: [u8; 4] = [2, 0, 0, 0];
    let (first, second, wanted) = (Ask::of(field, 0), Ask::of(field, 1), free(field));
    let external = first.like(wanted).with(&PREFER).granted(field)?;
    holds(external == wanted, || format!("{external} instead of {wanted}"))?;
    second.like(wanted).with(&PREFER).refused(field, ResultCode::CannotProvideExternal)?;
    second.with(&PREFER).refused(field, ResultCode::MalformedOption)?;
    first.ends(field)
}

fn filter(prefix_length: u8, port: u16, address: IpAddr) -> Vec<u8> {
    let filter = Filter { reserved: 0, prefix_length, port: port.into(), address: mapped(address) };
    [&[3, 0, 0, 20], filter.bytes()].concat()
}

fn filtered(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    let [friend, other] = [0, 1].map(|host| Side::Outside.host(false, host));
    let external = ask.with(&filter(128, 0, friend)).granted(field)?;
    field.admits(SocketAddr::new(friend, field.fresh()), external, ask.inside)?;
    field.refuses(SocketAddr::new(other, field.fresh()), external, ask.inside)?;
    let many: Vec<u8> = (0..17).flat_map(|host| filter(128, 0, [192, 0, 2, host].into())).collect();
    ask.with(&many).refused(field, ResultCode::ExcessiveRemotePeers)?;
    field.refuses(SocketAddr::new(other, field.fresh()), external, ask.inside)?;
    ask.with(&filter(0, 0, NONE.ip())).granted(field)?;
    field.admits(SocketAddr::new(other, field.fresh()), external, ask.inside)?;
    ask.ends(field)
}

fn announced(field: &Field) -> Result<(), Fault> {
    let host = Side::Inside.host(false, 0);
    let client = mapped(host);
    let header = RequestHeader { version: 2, opcode: opcode::ANNOUNCE, reserved: 0.into(), lifetime: 0.into(), client };
    let answer = exchange(field, host, header.bytes())?;
    let head = answer.get(..8).unwrap_or_default();
    holds(head == [2, 0x80, 0, 0, 0, 0, 0, 0] && answer.len() == 24, || format!("it is answered with {answer:?}"))
}

fn lifetimes(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    for (asked, granted) in [(1, 120), (700, 700), (u32::MAX, 3600)] {
        let lifetime = ask.lasting(asked).answered(field)?.lifetime;
        holds(lifetime == granted, || format!("{lifetime} seconds instead of {granted}"))?;
    }
    ask.ends(field)
}

fn deleted(field: &Field) -> Result<(), Fault> {
    let ask = Ask::of(field, 0);
    ask.ends(field)?;
    let external = ask.granted(field)?;
    ask.ends(field)?;
    field.refuses(stranger(field), external, ask.inside)?;
    ask.ends(field)?;
    field.udp_out(ask.inside, field.at(Side::Outside, false))?;
    ask.lasting(0).refused(field, ResultCode::NotAuthorized).map(drop)
}

fn reused(field: &Field) -> Result<(), Fault> {
    const PREFER: [u8; 4] = [2, 0, 0, 0];
    let (first, second) = (Ask::of(field, 0), Ask::of(field, 1));
    let external = first.like(free(field)).granted(field)?;
    first.ends(field)?;
    second.like(external).with(&PREFER).refused(field, ResultCode::CannotProvideExternal)?;
    let again = first.like(external).granted(field)?;
    holds(again == external, || format!("{again} instead of its own {external}"))?;
    first.ends(field)
}
