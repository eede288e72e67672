"""EmojiVOC and PaperdollWIDER: what is drawn on this machine."""
