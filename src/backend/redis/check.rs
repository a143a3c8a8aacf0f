//! Checks of a grant, one at a time, however many messages ask for them.

/// Whether a grant is being checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Check {
    #[default]
    Idle,
    Running,
    /// Another message came meanwhile: to be repeated.
    Repeat,
}

impl Check {
    /// Whether to start a check. One that is running already will be repeated.
    pub(super) fn begin(&mut self) -> bool {
        let begins = *self == Self::Idle;
        *self = if begins { Self::Running } else { Self::Repeat };
        begins
    }

    /// A check has ended. Whether to start it again, if there is still a grant.
    pub(super) fn end(&mut self, is_granted: bool) -> bool {
        let again = is_granted && *self == Self::Repeat;
        *self = if again { Self::Running } else { Self::Idle };
        again
    }
}
