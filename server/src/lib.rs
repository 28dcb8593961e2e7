//! The server binary's parts: command line, logging, and what each subcommand does.

pub mod admin;
pub mod args;
pub mod checkpoint;
pub mod config_file;
mod engine;
mod forward;
mod inside;
pub mod log;
pub mod logging;
mod open_files;
mod push;
pub mod replica;
pub mod restore;
pub mod signals;
pub mod verify;
