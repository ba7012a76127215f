//! No text makes the configuration's reader panic, and what it renders reads back to the same.
#![no_main]

use config::{Checked, Config, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = Config::parse_text(text) else { return };
    let rendered = parsed.render();
    let again = Config::parse_text(&rendered).unwrap_or_else(|error| panic!("{error}\n{rendered}"));
    assert_eq!(parsed.digest(), again.digest(), "{rendered}");
    if let Ok(Checked { settings, .. }) = Settings::from_config(&parsed) {
        let rendered = config::render(&settings);
        let again = Config::parse_text(&rendered).unwrap_or_else(|error| panic!("{error}\n{rendered}"));
        let again = Settings::from_config(&again).unwrap_or_else(|error| panic!("{error}\n{rendered}"));
        assert_eq!(settings, again.settings, "{rendered}");
    }
});
