//! Images: resolved to what they are, built, obtained, pushed, and thrown away again.
