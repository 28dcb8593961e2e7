//! The server binary's parts: command line, logging, and what each subcommand does.

pub mod admin;
pub mod args;
pub mod checkpoint;
pub mod config_file;
mod inside;
pub mod log;
pub mod logging;
mod push;
pub mod replica;
pub mod restore;
pub mod signals;
pub mod verify;
