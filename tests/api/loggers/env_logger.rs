//! env_logger prints no fields by default.

use support::in_a_separate_process;

use super::{Printed, a_life};

#[test]
fn a_line_of_env_logger_names_the_lock() {
    in_a_separate_process!();
    let printed = Printed::default();
    let target = env_logger::Target::Pipe(Box::new(printed.clone()));
    env_logger::Builder::new().filter_level(log::LevelFilter::Debug).target(target).init();
    a_life(&printed);
}
