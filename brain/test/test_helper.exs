{:ok, _} = Application.ensure_all_started(:logger)
ExUnit.start(capture_log: true)
