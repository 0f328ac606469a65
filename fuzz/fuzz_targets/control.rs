//! Whatever a client sends, it is a request that can be sent again, or refused in one line.
#![no_main]

use flowhop::control::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    match Request::read(line) {
        Ok(request) => {
            let again = serde_json::to_string(&request).expect("a request can be written");
            assert_eq!(Request::read(&again), Ok(request));
        }
        Err(error) => assert!(!error.is_empty() && !error.contains('\n'), "{error:?}"),
    }
});
