//! Whatever a policy file holds, it is read or refused with the place of every fault.
#![no_main]

use flowhop_policy::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { name: "fuzz.toml".into(), text: text.to_owned() };
    if let Err(faults) = flowhop_policy::parse(&[source]) {
        assert!(!faults.is_empty());
        for fault in &faults {
            assert!(fault.to_string().contains("fuzz.toml:"), "{fault}");
        }
    }
});
