"""Result rows -> comparison tables, with what is more than chance. No torch."""
