drop function jsonb_merge_patch;
