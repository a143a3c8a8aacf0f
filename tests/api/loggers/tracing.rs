//! tracing-subscriber prints lines as the events that they are.

use support::in_a_separate_process;

use super::{Printed, a_life};

#[test]
fn a_line_of_tracing_names_the_lock() {
    in_a_separate_process!();
    let printed = Printed::default();
    let writer = printed.clone();
    let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    // init() takes the records of `log` as well, so that each line could come twice.
    builder.with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    a_life(&printed);
}
