drop function if exists public.repair_progress(uuid);
