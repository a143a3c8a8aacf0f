//! Points at which a unit test steps in between.

use std::cell::RefCell;

/// A point in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// A claim has locked its byte, and has not looked above it.
    Placed,
    /// An expired lease has been renamed, and its time not been read again.
    Renamed,
    /// A claim has found nothing before it, and has no epoch.
    Looked,
    /// A claim has its epoch, and has not proved its lease.
    Dated,
    /// One more name of a directory has been read.
    Listed,
    /// A lease has got the time of a renewal, and has not been proved.
    Renewed,
    /// A claim has unlocked its byte, and has woken nobody.
    Unlocked,
}

type Step = Box<dyn FnMut(Gate)>;

thread_local! {
    static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
}

/// Called by the protocol.
pub(super) fn pass(gate: Gate) {
    // Taken out, because the step may pass gates itself.
    let step = STEP.with(|step| step.borrow_mut().take());
    if let Some(mut step) = step {
        step(gate);
        STEP.with(|place| *place.borrow_mut() = Some(step));
    }
}

/// Has `step` called at each gate that this thread passes, until the returned value is dropped.
pub(super) fn at_each(step: impl FnMut(Gate) + 'static) -> Stepping {
    STEP.with(|place| *place.borrow_mut() = Some(Box::new(step)));
    Stepping
}

pub(super) struct Stepping;

impl Drop for Stepping {
    fn drop(&mut self) {
        STEP.with(|place| place.borrow_mut().take());
    }
}
