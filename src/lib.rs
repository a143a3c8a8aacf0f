#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
mod clock;
mod error;
mod info;
mod key;
mod settings;
mod token;

pub use error::{LockError, Result};
pub use info::{Eviction, Holder, LockInfo, Loss, Mode};
pub use token::FencingToken;
