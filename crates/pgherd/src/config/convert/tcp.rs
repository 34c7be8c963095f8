//! How TCP connections notice that the other end is gone.

use std::time::Duration;

use super::super::located::At;
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::TcpSettings;

/// What Linux takes: 15 bits of seconds, and 127 questions.
const LONGEST: Duration = Duration::from_secs(32_767);
const MOST: u32 = 127;

/// The settings of a socket.
pub fn tcp(raw: Option<&At<raw::Tcp>>, reader: &mut Reader<'_>) -> Option<TcpSettings> {
    let nothing = raw::Tcp::default();
    let raw = raw.map_or(&nothing, |raw| &raw.value);
    let default = TcpSettings::default();
    let second = Duration::from_secs(1);
    let idle = reader.span(
        raw.keepalive_idle.as_ref(),
        default.keepalive_idle,
        Duration::ZERO,
    );
    let interval = reader.span(
        raw.keepalive_interval.as_ref(),
        default.keepalive_interval,
        second,
    );
    let count = reader.number(
        raw.keepalive_count.as_ref(),
        default.keepalive_count,
        1..=MOST,
    );
    let user_timeout = reader.span(
        raw.user_timeout.as_ref(),
        default.user_timeout,
        Duration::ZERO,
    );
    for (written, read) in [
        (&raw.keepalive_idle, idle),
        (&raw.keepalive_interval, interval),
    ] {
        if let (Some(written), Some(read)) = (written, read)
            && (read.subsec_nanos() > 0 || read > LONGEST)
        {
            reader.error(
                written.place,
                format!(
                    "`{}` is not a whole number of seconds up to {}",
                    written.value.0,
                    LONGEST.as_secs()
                ),
                "write it as `30s`",
            );
            return None;
        }
    }
    Some(TcpSettings {
        keepalive_idle: idle?,
        keepalive_interval: interval?,
        keepalive_count: count?,
        user_timeout: user_timeout?,
    })
}
