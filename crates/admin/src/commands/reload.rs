//! RELOAD: the configuration is read again.

use pgherd_protocol::{PgError, SqlState};

use crate::doing::{Acting, Doing};
use crate::operations::ProcessRequest;

pub(super) const DOING: Doing = Doing {
    syntax: "RELOAD",
    description: "Reads the configuration again, as SIGHUP does; a notice names each change that takes a restart. A file that is wrong changes nothing (F0000).",
    words: "RELOAD",
    arguments: (0, 0),
    run: |acting, _| Box::pin(run(acting)),
};

async fn run(acting: &mut Acting<'_>) -> Result<(), PgError> {
    match acting.operations.ask(ProcessRequest::Reload).await? {
        Ok(kept) => {
            for what in kept {
                let text = format!("{what} changed: that takes effect with a restart");
                acting.notice(text).await?;
            }
            Ok(())
        }
        Err(why) => Err(PgError::error(
            SqlState::CONFIG_FILE_ERROR,
            "the configuration was not reloaded",
        )
        .detail(why)
        .hint("`pgherd check` says what is wrong with a file.")),
    }
}
