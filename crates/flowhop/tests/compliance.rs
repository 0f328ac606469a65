//! The page about RFCs belongs to the list of clauses.

use flowhop::selftest::{clause, report};

#[test]
fn the_page_about_rfcs_is_what_the_list_makes() {
    let page = include_str!("../../../docs/rfc-compliance.md");
    let made = report::markdown(&clause::all());
    assert!(page == made, "stale; run: flowhop selftest --markdown docs/rfc-compliance.md");
}
