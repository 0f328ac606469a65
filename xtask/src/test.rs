//! x
pub(crate) fn run() -> anyhow::Result<()> {
    crate::arrows::check()
}
