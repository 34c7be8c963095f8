//! Is a shard's primary dead?
//!
//! Owns the decision, a pure function of what is known of the primary and of its standbys. Never asks a server and never acts.
//! Main function: [`decide`].
//!
//! The standbys are the witnesses: a primary that nobody here reaches, and from which a standby still streams, is not dead, pgherd is cut off.
//! One that streams from another standby counts as well, so that such a shard's primary is never found dead.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::evidence::{Contact, Evidence};
use crate::heartbeat::Beat;
use crate::settings::{FailoverMode, FailoverSettings};
use crate::testimony::Receiver;

/// So many refusals in a row are no accident.
const REFUSALS: u32 = 3;
/// After so long without room it is not for a moment.
const FULL_AFTER: Duration = Duration::from_secs(3);
/// So many restarts within a minute are no way to serve.
const RESTARTS: usize = 3;

/// How long something goes on before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// With a primary that refuses connections.
    pub(crate) refused_after: Duration,
    /// With one that does not answer.
    pub(crate) silent_after: Duration,
    /// With one that starts or recovers from a crash.
    pub(crate) recovery_limit: Duration,
    /// With a stream that brings no message. Of an idle primary one comes at least as often as half of `wal_sender_timeout` (30 s as
    /// Postgres comes).
    pub(crate) stale_after: Duration,
    /// An answer that takes longer is worth an alert.
    pub(crate) slow: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            refused_after: Duration::from_secs(1),
            silent_after: Duration::from_secs(8),
            recovery_limit: Duration::from_secs(60),
            stale_after: Duration::from_secs(35),
            slow: Duration::from_secs(1),
        }
    }
}

impl From<&FailoverSettings> for Patience {
    fn from(settings: &FailoverSettings) -> Self {
        let default = Self::default();
        Self {
            refused_after: settings.refused_after,
            silent_after: settings.silent_after,
            stale_after: match settings.mode {
                // the heartbeat is a message each second
                FailoverMode::Promote => settings.silent_after,
                FailoverMode::Observe => default.stale_after,
            },
            ..default
        }
    }
}

/// What is to be thought of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answers.
    Well,
    /// It answers, and takes long.
    Slow,
    /// It answers, and none of its standbys is known to stream from it: a commit that needs one waits.
    Alone,
    /// It lives, and lets nobody in now.
    Busy(Busy),
    /// Something is wrong, for too short a time to act.
    Suspected(Cause),
    /// It answers, and has no room on its disk for a write: another one is to take over, as planned.
    Full,
    /// It is not reached from here, but a standby streams from it.
    CutOff,
    /// It is not reached, and no standby is that could tell whether it lives.
    NoWitness(Cause),
    /// It is to be replaced.
    Dead(Cause),
}

/// Why a primary that lives lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    /// All its connections are taken.
    NoRoom,
    /// It starts or recovers.
    Starting,
    /// It refuses the control login.
    Refuses,
}

/// What speaks for a primary's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It refuses connections.
    Refuses,
    /// It does not answer.
    Silent,
    /// It crashes again and again.
    Crashes,
    /// It does not come out of recovery.
    Recovers,
    /// Its writes wait for standbys that are reached from here and not from there.
    Partitioned,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Refuses => "it refuses connections",
            Self::Silent => "it does not answer",
            Self::Crashes => "it restarted three times within a minute",
            Self::Recovers => "it does not come out of recovery",
            Self::Partitioned => "its writes wait for standbys that are cut off from it",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => formatter.write_str("well"),
            Self::Slow => formatter.write_str("slow: it takes more than a second to answer"),
            Self::Alone => {
                formatter.write_str("alone: it answers, and no standby is known to stream from it")
            }
            Self::Busy(Busy::NoRoom) => formatter.write_str("alive: all its connections are taken"),
            Self::Busy(Busy::Starting) => formatter.write_str("alive: it is starting up"),
            Self::Busy(Busy::Refuses) => formatter.write_str("alive: it answers with an error"),
            Self::Suspected(cause) => write!(formatter, "suspected: {cause}"),
            Self::CutOff => formatter.write_str(
                "cut off from pgherd: it is not reached from here, but a standby streams from it",
            ),
            Self::NoWitness(cause) => write!(
                formatter,
                "not known: {cause}, and no standby is reached that could tell whether it lives"
            ),
            Self::Full => formatter.write_str("full: it answers, and has no room for a write"),
            Self::Dead(cause @ (Cause::Crashes | Cause::Partitioned)) => {
                write!(formatter, "to be replaced: {cause}")
            }
            Self::Dead(cause) => write!(formatter, "dead: {cause}, and no standby streams from it"),
        }
    }
}

/// What the standbys say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witnesses {
    /// One of them streams from the primary.
    Streaming,
    /// None is known to, and one was last asked before anything was wrong.
    Unheard,
    /// At least one is reached, and none that is streams.
    Lost,
    /// There are some, and none is reached.
    Absent,
    /// There are none.
    None,
}

impl Witnesses {
    fn hear<'a>(
        standbys: impl Iterator<Item = &'a Evidence>,
        since: Instant,
        stale_after: Duration,
    ) -> Self {
        standbys.fold(Self::None, |heard, standby| {
            match (heard, Self::of(standby, since, stale_after)) {
                (Self::Streaming, _) | (_, Self::Streaming) => Self::Streaming,
                (Self::Unheard, _) | (_, Self::Unheard) => Self::Unheard,
                (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
                (Self::Absent, _) | (_, Self::Absent) => Self::Absent,
                (Self::None, Self::None) => Self::None,
            }
        })
    }

    fn of(standby: &Evidence, since: Instant, stale_after: Duration) -> Self {
        let said = standby.said.as_ref().filter(|_| standby.answers());
        let stream = said.and_then(|(at, said)| Some((*at, said.stream()?)));
        match stream.map(|(at, stream)| (at, &stream.receiver)) {
            Some((at, _)) if at < since => Self::Unheard,
            Some((_, receiver)) => Self::by(receiver, stale_after),
            None => Self::Absent,
        }
    }

    fn by(receiver: &Receiver, stale_after: Duration) -> Self {
        match receiver {
            Receiver::Streaming { silent_for } if *silent_for < stale_after => Self::Streaming,
            Receiver::Streaming { .. } | Receiver::Lost => Self::Lost,
            // it receives, and does not say how lately
            Receiver::Hidden => Self::Streaming,
        }
    }
}

/// How long a write has waited.
fn hangs(beat: Beat, now: Instant) -> Duration {
    match beat {
        Beat::Hangs(since) => now.saturating_duration_since(since),
        Beat::Unknown | Beat::Taken | Beat::Full(_) => Duration::ZERO,
    }
}

fn is_full(beat: Beat, now: Instant) -> bool {
    matches!(beat, Beat::Full(since) if now.saturating_duration_since(since) >= FULL_AFTER)
}

/// Decides about a primary.
pub(crate) fn decide<'a>(
    primary: &Evidence,
    standbys: impl Iterator<Item = &'a Evidence>,
    beat: Beat,
    patience: &Patience,
    now: Instant,
) -> Verdict {
    let witnesses = Witnesses::hear(standbys, primary.since, patience.stale_after);
    let lasted = primary.lasted(now);
    let gone = |cause, long_enough: bool| match (witnesses, long_enough) {
        (Witnesses::Streaming, _) => Verdict::CutOff,
        (Witnesses::Absent | Witnesses::None, _) => Verdict::NoWitness(cause),
        (Witnesses::Lost, true) => Verdict::Dead(cause),
        (Witnesses::Lost, false) | (Witnesses::Unheard, _) => Verdict::Suspected(cause),
    };
    match primary.contact {
        Contact::Untried => Verdict::Suspected(Cause::Silent),
        Contact::Answered { .. } if primary.restarts(now) >= RESTARTS => {
            Verdict::Dead(Cause::Crashes)
        }
        // it could not acknowledge anything for a while, and those that would have to are there
        Contact::Answered { .. }
            if witnesses == Witnesses::Lost && hangs(beat, now) >= patience.silent_after =>
        {
            Verdict::Dead(Cause::Partitioned)
        }
        Contact::Answered { .. } if is_full(beat, now) => Verdict::Full,
        Contact::Answered { .. } if matches!(witnesses, Witnesses::Lost | Witnesses::Absent) => {
            Verdict::Alone
        }
        Contact::Answered { took } if took > patience.slow => Verdict::Slow,
        Contact::Answered { .. } => Verdict::Well,
        Contact::NoRoom => Verdict::Busy(Busy::NoRoom),
        Contact::Failed => Verdict::Busy(Busy::Refuses),
        Contact::Starting if lasted < patience.recovery_limit => Verdict::Busy(Busy::Starting),
        Contact::Starting => gone(Cause::Recovers, true),
        Contact::Refused => gone(
            Cause::Refuses,
            primary.times >= REFUSALS && lasted >= patience.refused_after,
        ),
        Contact::Silent => gone(Cause::Silent, lasted >= patience.silent_after),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testimony::{Replication, Standing, Stream, Testimony};

    const MOMENT: Duration = Duration::from_millis(1);
    const ANSWERED: Contact = Contact::Answered { took: MOMENT };

    fn said(replication: Replication, begun: i64) -> Testimony {
        let standing = match replication {
            Replication::Sends { .. } => Standing::Claimant { timeline: 1 },
            Replication::Receives(_) => Standing::Standby { timelines: vec![1] },
        };
        Testimony {
            standing,
            system_identifier: 7,
            max_prepared_transactions: 0,
            version: 150_000,
            begun: Some(begun),
            reign: None,
            replication,
        }
    }

    /// A primary that meets this `times` times, the first time now.
    fn primary(start: Instant, contact: Contact, times: u32) -> Evidence {
        let mut evidence = Evidence::new(start);
        for _ in 0..times {
            evidence.note(start, contact, None);
        }
        evidence
    }

    fn standby(start: Instant, receiver: Receiver) -> Evidence {
        let mut evidence = Evidence::new(start);
        let stream = Stream {
            receiver,
            ..Stream::default()
        };
        evidence.note(
            start,
            ANSWERED,
            Some(said(Replication::Receives(stream), 1)),
        );
        evidence
    }

    fn streaming(silent_for: u64) -> Receiver {
        Receiver::Streaming {
            silent_for: Duration::from_secs(silent_for),
        }
    }

    /// What is decided so many milliseconds after a primary began to meet something.
    fn after(milliseconds: u64, contact: Contact, times: u32, receivers: &[Receiver]) -> Verdict {
        let start = Instant::now();
        let standbys: Vec<Evidence> = receivers
            .iter()
            .map(|each| standby(start, each.clone()))
            .collect();
        let primary = primary(start, contact, times);
        let now = start + Duration::from_millis(milliseconds);
        decide(
            &primary,
            standbys.iter(),
            Beat::Unknown,
            &Patience::default(),
            now,
        )
    }

    #[test]
    fn three_refusals_and_every_stream_lost_are_death_after_a_second() {
        let lost = [Receiver::Lost, Receiver::Lost];
        assert_eq!(
            after(1000, Contact::Refused, 3, &lost),
            Verdict::Dead(Cause::Refuses)
        );
        assert_eq!(
            after(999, Contact::Refused, 3, &lost),
            Verdict::Suspected(Cause::Refuses)
        );
        assert_eq!(
            after(5000, Contact::Refused, 2, &lost),
            Verdict::Suspected(Cause::Refuses)
        );
    }

    #[test]
    fn silence_with_stale_streams_is_death_after_eight_seconds() {
        let stale = [streaming(40), Receiver::Lost];
        assert_eq!(
            after(8000, Contact::Silent, 4, &stale),
            Verdict::Dead(Cause::Silent)
        );
        assert_eq!(
            after(7999, Contact::Silent, 4, &stale),
            Verdict::Suspected(Cause::Silent)
        );
    }

    #[test]
    fn a_primary_that_a_standby_streams_from_is_never_dead() {
        for contact in [Contact::Refused, Contact::Silent, Contact::Starting] {
            for receivers in [
                vec![streaming(0), streaming(0)],
                vec![streaming(0), Receiver::Lost],
                vec![Receiver::Lost, Receiver::Hidden],
            ] {
                assert_eq!(
                    after(100_000, contact, 100, &receivers),
                    Verdict::CutOff,
                    "{contact:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_standby_said_before_anything_was_wrong_decides_nothing() {
        for receiver in [streaming(0), Receiver::Lost] {
            let start = Instant::now();
            let before = standby(start, receiver);
            let since = start + Duration::from_secs(1);
            let primary = primary(since, Contact::Refused, 9);
            let verdict = decide(
                &primary,
                [&before].into_iter(),
                Beat::Unknown,
                &Patience::default(),
                since + Duration::from_secs(9),
            );
            assert_eq!(verdict, Verdict::Suspected(Cause::Refuses));
        }
    }

    #[test]
    fn where_nobody_is_reached_nobody_is_dead() {
        assert_eq!(
            after(100_000, Contact::Silent, 100, &[]),
            Verdict::NoWitness(Cause::Silent)
        );
        let start = Instant::now();
        let gone = primary(start, Contact::Silent, 9);
        let primary = primary(start, Contact::Refused, 9);
        let now = start + Duration::from_secs(100);
        let verdict = decide(
            &primary,
            [&gone, &gone].into_iter(),
            Beat::Unknown,
            &Patience::default(),
            now,
        );
        assert_eq!(verdict, Verdict::NoWitness(Cause::Refuses));
    }

    #[test]
    fn a_standby_that_is_down_does_not_speak_for_a_primary_that_lives() {
        let start = Instant::now();
        // it streamed when it was last asked
        let mut down = standby(start, streaming(0));
        down.note(start, Contact::Silent, None);
        let lost = standby(start, Receiver::Lost);
        let primary = primary(start, Contact::Refused, 5);
        let now = start + Duration::from_secs(2);
        let verdict = decide(
            &primary,
            [&down, &lost].into_iter(),
            Beat::Unknown,
            &Patience::default(),
            now,
        );
        assert_eq!(verdict, Verdict::Dead(Cause::Refuses));
    }

    #[test]
    fn a_primary_that_answers_without_standbys_is_alone_and_lives() {
        assert_eq!(
            after(100_000, ANSWERED, 100, &[Receiver::Lost]),
            Verdict::Alone
        );
        assert_eq!(
            after(100_000, ANSWERED, 100, &[streaming(50)]),
            Verdict::Alone
        );
        assert_eq!(after(100_000, ANSWERED, 100, &[]), Verdict::Well);
        assert_eq!(
            after(100_000, ANSWERED, 100, &[streaming(0), Receiver::Lost]),
            Verdict::Well
        );
    }

    #[test]
    fn one_that_has_no_room_or_starts_lives() {
        let lost = [Receiver::Lost];
        assert_eq!(
            after(100_000, Contact::NoRoom, 100, &lost),
            Verdict::Busy(Busy::NoRoom)
        );
        assert_eq!(
            after(100_000, Contact::Failed, 100, &lost),
            Verdict::Busy(Busy::Refuses)
        );
        assert_eq!(
            after(59_999, Contact::Starting, 100, &lost),
            Verdict::Busy(Busy::Starting)
        );
    }

    #[test]
    fn one_that_does_not_come_out_of_recovery_within_a_minute_is_replaced() {
        let lost = [Receiver::Lost];
        assert_eq!(
            after(60_000, Contact::Starting, 100, &lost),
            Verdict::Dead(Cause::Recovers)
        );
    }

    #[test]
    fn three_crashes_within_a_minute_are_enough() {
        let start = Instant::now();
        let well = standby(start, streaming(0));
        let sends = || Replication::Sends {
            synchronous_standby_names: "".into(),
        };
        let mut primary = Evidence::new(start);
        for begun in 0..4 {
            primary.note(start, ANSWERED, Some(said(sends(), begun)));
        }
        let decided = |seconds| {
            let now = start + Duration::from_secs(seconds);
            decide(
                &primary,
                [&well].into_iter(),
                Beat::Unknown,
                &Patience::default(),
                now,
            )
        };
        assert_eq!(decided(59), Verdict::Dead(Cause::Crashes));
        assert_eq!(decided(61), Verdict::Well);
    }

    /// What is decided of a primary that answers and has written nothing for so many milliseconds.
    fn with_beat(milliseconds: u64, beat: fn(Instant) -> Beat, receiver: Receiver) -> Verdict {
        let start = Instant::now();
        let standby = standby(start, receiver);
        let primary = primary(start, ANSWERED, 9);
        let now = start + Duration::from_millis(milliseconds);
        let patience = Patience::default();
        decide(
            &primary,
            [&standby].into_iter(),
            beat(start),
            &patience,
            now,
        )
    }

    #[test]
    fn one_whose_writes_wait_for_standbys_cut_off_from_it_is_replaced() {
        let partitioned = Verdict::Dead(Cause::Partitioned);
        assert_eq!(with_beat(8000, Beat::Hangs, Receiver::Lost), partitioned);
        assert_eq!(with_beat(7999, Beat::Hangs, Receiver::Lost), Verdict::Alone);
        // one streams, and does not acknowledge: nobody else would
        assert_eq!(with_beat(8000, Beat::Hangs, streaming(0)), Verdict::Well);
    }

    #[test]
    fn one_without_room_is_to_be_replaced_as_planned() {
        assert_eq!(with_beat(3000, Beat::Full, streaming(0)), Verdict::Full);
        assert_eq!(with_beat(2999, Beat::Full, streaming(0)), Verdict::Well);
    }

    #[test]
    fn where_writes_flow_a_stream_without_messages_is_lost_as_soon_as_the_primary_is_silent() {
        let settings = FailoverSettings {
            mode: FailoverMode::Promote,
            ..FailoverSettings::default()
        };
        let patience = Patience::from(&settings);
        let start = Instant::now();
        let standby = standby(start, streaming(8));
        let primary = primary(start, Contact::Silent, 4);
        let now = start + Duration::from_secs(8);
        let decided = decide(
            &primary,
            [&standby].into_iter(),
            Beat::Unknown,
            &patience,
            now,
        );
        assert_eq!(decided, Verdict::Dead(Cause::Silent));
    }

    #[test]
    fn one_that_is_only_slow_lives() {
        let slow = Contact::Answered {
            took: Duration::from_secs(2),
        };
        assert_eq!(after(100_000, slow, 100, &[streaming(0)]), Verdict::Slow);
    }
}
