defmodule Brain.World do
  @moduledoc """
  Two Shields that write, a network that loses, repeats and reorders, and a roster that hears it.

  `run/3` executes commands and checks, after each, what must hold in every state:

  - a part at a version has exactly the entries that its writer had at that version;
  - the view is the union of the visible parts;
  - sums, digests and roots are those of the entries;
  - facts are exactly the change of the view;
  - versions do not go back.
  """

  import Bitwise
  import :proper_types

  @shields ["s1", "s2"]
  @accounts ["AAA", "BBB"]
  @rooms ["a", "b", "c"]

  ## Commands

  @doc "Any sequence of commands."
  def commands, do: list(frequency(writes() ++ network() ++ liveness() ++ snapshots()))

  @doc "What Shields write, and in-order delivery interleaved any way, and nothing else."
  def in_order, do: list(frequency([{1, {:next, shield(), account()}} | writes()]))

  @doc "Writes only."
  def writings, do: list(frequency(writes()))

  defp writes do
    [
      {8, {:put, shield(), account(), room(), session(), choose(0, 3)}},
      {4, {:gone, shield(), account(), room(), session()}},
      {6, {:flush, shield(), account()}}
    ]
  end

  defp network do
    [
      {8, {:deliver, choose(0, 20)}},
      {1, {:lose, choose(0, 20)}},
      {2, {:repeat, choose(0, 20)}},
      {2, {:resend, shield(), account(), choose(1, 6)}}
    ]
  end

  defp liveness do
    [
      {1, {:hide, shield()}},
      {2, {:show, shield()}},
      {1, {:restart, shield()}},
      {1, {:old_one, shield(), account()}}
    ]
  end

  defp snapshots do
    [
      {3, {:sync, shield(), account(), choose(1, 4)}},
      {1, {:abort, shield(), account()}},
      {1, {:drop, shield(), account()}}
    ]
  end

  defp shield, do: elements(@shields)
  defp account, do: elements(@accounts)
  defp room, do: elements(@rooms)
  defp session, do: choose(1, 5)

  ## World

  defstruct [:mod, :r, shields: %{}, net: [], history: %{}, seen: %{}, epoch: 10, request: 0]

  def new(mod) do
    w = %__MODULE__{mod: mod, r: mod.new()}
    Enum.reduce(@shields, w, &start(&2, &1))
  end

  def close(w), do: w.mod.close(w.r)

  @doc "Runs commands with all checks; true, or raises."
  def run(commands, mod \\ Brain.Roster, finish \\ &heal/1) do
    w = new(mod)
    w = Enum.reduce(commands, w, &checked(&2, fn w -> step(w, &1) end))
    w = finish.(w)
    check!(view(w) == truth(w), "the view is not the truth", {view(w), truth(w)})
    close(w)
    true
  end

  @doc "Flushes, delivers and repairs until nothing is left: the network no longer loses."
  def heal(w) do
    w = for_parts(w, fn w, s, a -> checked(w, &step(&1, {:flush, s, a})) end)
    w = Enum.reduce(@shields, w, fn s, w -> checked(w, &step(&1, {:show, s})) end)
    w = deliver_all(w)

    w =
      for_parts(w, fn w, s, a ->
        %{epoch: epoch, tenants: tenants} = w.shields[s]
        %{seq: seq, entries: entries} = tenants[a]

        if w.mod.version(w.r, s, epoch, a) == {seq, map_size(entries), digest(entries)} and
             not w.mod.fetching?(w.r, s, epoch, a) do
          w
        else
          checked(w, &step(&1, {:sync, s, a, 2})) |> deliver_all()
        end
      end)

    w
  end

  defp deliver_all(%{net: []} = w), do: w
  defp deliver_all(w), do: w |> checked(&step(&1, {:deliver, 0})) |> deliver_all()

  defp for_parts(w, fun) do
    Enum.reduce(for(s <- @shields, a <- @accounts, do: {s, a}), w, fn {s, a}, w ->
      fun.(w, s, a)
    end)
  end

  defp start(w, name) do
    epoch = w.epoch + 1
    none = %{seq: 0, sent: 0, entries: %{}, unsent: [], log: []}
    shield = %{epoch: epoch, tenants: Map.new(@accounts, &{&1, none})}
    history = Enum.reduce(@accounts, w.history, &Map.put(&2, {epoch, &1, 0}, %{}))
    {r, _, _} = w.mod.show(w.r, name, epoch)
    %{w | r: r, epoch: epoch, history: history, shields: Map.put(w.shields, name, shield)}
  end

  ## Steps: each returns {world, facts by account | :skip}

  def step(w, {:put, name, account, room, session, meta}) do
    write(w, name, account, fn t, epoch ->
      entry = entry(epoch, name, room, session, t.seq + 1, meta)
      {room, user, id, _, _, _, _, _} = entry
      {{:put, entry}, Map.put(t.entries, {room, user, id}, entry)}
    end)
  end

  def step(w, {:gone, name, account, room, session}) do
    write(w, name, account, fn t, _ ->
      {user, id} = identity(name, session)
      {{:gone, room, user, id}, Map.delete(t.entries, {room, user, id})}
    end)
  end

  def step(w, {:flush, name, account}) do
    %{epoch: epoch, tenants: %{^account => t} = tenants} = shield = w.shields[name]

    case Enum.reverse(t.unsent) do
      [] ->
        {w, []}

      changes ->
        message = {:changes, name, epoch, account, t.sent + 1, changes}
        log = t.log ++ changes
        t = %{t | unsent: [], sent: length(log), log: log}
        shield = %{shield | tenants: Map.put(tenants, account, t)}
        {%{w | net: w.net ++ [message], shields: Map.put(w.shields, name, shield)}, []}
    end
  end

  def step(w, {:deliver, n}) do
    case pick(w, n) do
      nil -> {w, []}
      message -> receive_message(%{w | net: List.delete(w.net, message)}, message)
    end
  end

  # The oldest message of this Shield and tenant.
  def step(w, {:next, name, account}) do
    {w, _} = step(w, {:flush, name, account})

    case Enum.find(w.net, &match?({:changes, ^name, _, ^account, _, _}, &1)) do
      nil -> {w, []}
      message -> receive_message(%{w | net: List.delete(w.net, message)}, message)
    end
  end

  def step(w, {:lose, n}), do: {%{w | net: List.delete(w.net, pick(w, n))}, []}

  def step(w, {:repeat, n}) do
    case pick(w, n) do
      nil -> {w, []}
      message -> {%{w | net: w.net ++ [message]}, []}
    end
  end

  # The last changes sent, once more and in one batch, which overlaps what is known.
  def step(w, {:resend, name, account, n}) do
    %{epoch: epoch, tenants: %{^account => t}} = w.shields[name]

    case Enum.take(t.log, -n) do
      [] ->
        {w, []}

      changes ->
        first = t.sent - length(changes) + 1
        {%{w | net: w.net ++ [{:changes, name, epoch, account, first, changes}]}, []}
    end
  end

  def step(w, {:hide, name}) do
    {r, facts, _} = w.mod.hide(w.r, name, w.shields[name].epoch)
    {%{w | r: r}, facts}
  end

  def step(w, {:show, name}) do
    {r, facts, _} = w.mod.show(w.r, name, w.shields[name].epoch)
    {%{w | r: r}, facts}
  end

  def step(w, {:restart, name}) do
    {r, facts, _} = w.mod.delete(w.r, name, w.shields[name].epoch)
    {start(%{w | r: r}, name), facts}
  end

  # A batch of an incarnation that is not in force.
  def step(w, {:old_one, name, account}) do
    old = w.shields[name].epoch - 1000
    entry = entry(old, name, "a", 1, 1, 0)
    :unknown = w.mod.changes(w.r, name, old, account, 1, [{:put, entry}])
    {w, []}
  end

  def step(w, {:sync, name, account, size}) do
    %{epoch: epoch, tenants: %{^account => t}} = w.shields[name]
    request = w.request + 1

    case w.mod.begin_snapshot(w.r, name, epoch, account, request, :forward) do
      {:ok, r} ->
        pages = pages(t.entries, size)
        last = length(pages) - 1

        messages =
          for {entries, n} <- Enum.with_index(pages) do
            {:page, name, epoch, account, request, n, t.seq, n == last, entries}
          end

        # What was written is sent before the snapshot is made.
        {w, _} = step(w, {:flush, name, account})
        {%{w | r: r, request: request, net: w.net ++ messages}, []}

      :unknown ->
        {w, []}
    end
  end

  def step(w, {:abort, name, account}) do
    {%{w | r: w.mod.abort_snapshot(w.r, name, w.shields[name].epoch, account)}, []}
  end

  def step(w, {:drop, name, account}) do
    epoch = w.shields[name].epoch
    {r, facts} = w.mod.drop(w.r, name, epoch, account)
    {%{w | r: r, seen: Map.delete(w.seen, {epoch, account})}, [{account, facts}]}
  end

  def pages(entries, size) do
    case entries |> Enum.sort() |> Enum.map(&elem(&1, 1)) |> Enum.chunk_every(size) do
      [] -> [[]]
      pages -> pages
    end
  end

  defp pick(%{net: []}, _), do: nil
  defp pick(w, n), do: Enum.at(w.net, rem(n, length(w.net)))

  defp write(w, name, account, fun) do
    %{epoch: epoch, tenants: %{^account => t} = tenants} = shield = w.shields[name]
    {change, entries} = fun.(t, epoch)
    t = %{t | seq: t.seq + 1, entries: entries, unsent: [change | t.unsent]}
    shield = %{shield | tenants: Map.put(tenants, account, t)}
    history = Map.put(w.history, {epoch, account, t.seq}, entries)
    {%{w | shields: Map.put(w.shields, name, shield), history: history}, []}
  end

  defp receive_message(w, {:changes, name, epoch, account, first, changes}) do
    case w.mod.changes(w.r, name, epoch, account, first, changes) do
      {:ok, r, facts} -> {%{w | r: r}, [{account, facts}]}
      {tag, r} when tag in [:buffered, :overflow] -> {%{w | r: r}, []}
      tag when tag in [:duplicate, :gap, :unknown] -> {w, []}
    end
  end

  defp receive_message(w, {:page, name, epoch, account, request, n, seq, last?, entries}) do
    case w.mod.page(w.r, name, epoch, account, request, n, seq, last?, entries) do
      {tag, r, facts} when tag in [:more, :done, :gap] -> {%{w | r: r}, [{account, facts}]}
      {:broken, r} -> {%{w | r: r}, []}
      tag when tag in [:unexpected, :unknown] -> {w, []}
    end
  end

  def identity(name, session) do
    # Users are shared by the Shields, sessions are not.
    {"user#{rem(session, 3)}", <<session, name::binary>>}
  end

  def entry(epoch, name, room, session, seq, meta) do
    {user, id} = identity(name, session)
    hash = :erlang.phash2({epoch, room, id, seq}, 1 <<< 32)
    {room, user, id, seq, "meta#{meta}", 1000 + seq, 2000 + seq, hash}
  end

  ## Checks

  defp checked(w, fun) do
    before = view(w)
    totals = totals(w)
    {next, facts} = fun.(w)
    facts_are_the_change!(next, before, totals, facts)
    sums!(next)
    next = parts_are_their_version!(next)
    next
  end

  defp check!(true, _, _), do: true
  defp check!(false, what, detail), do: raise("#{what}: #{inspect(detail, limit: :infinity)}")

  defp facts_are_the_change!(w, before, totals, facts) do
    now = view(w)

    first =
      for {account, facts} <- facts, {room, digest, user, present?} <- facts, reduce: %{} do
        acc -> Map.put_new(acc, {account, room, user}, {digest, present?})
      end

    for {{account, room, user}, {_, present?}} <- first do
      was = is_map_key(before, {account, room, user})
      check!(was == present?, "a fact is wrong about before", {account, room, user})
    end

    changed = for {k, v} <- Map.merge(before, now), before[k] != v or now[k] != v, do: k
    missed = Enum.reject(changed, &is_map_key(first, &1))
    check!(missed == [], "a change of the view without a fact", missed)

    # The first fact of a room holds its digest before.
    for {account, facts} <- facts, {room, [{_, digest, _, _} | _]} <- by_room(facts) do
      check!(Map.get(totals, {account, room}, 0) == digest, "a wrong digest before", room)
    end
  end

  defp by_room(facts), do: Enum.group_by(facts, &elem(&1, 0))

  defp totals(w) do
    for a <- @accounts, {room, digest, _} <- elem(w.mod.digests(w.r, a, "", 100), 0), into: %{} do
      {{a, room}, digest}
    end
  end

  defp sums!(w) do
    for a <- @accounts, room <- @rooms do
      rows = for {key, e} <- entries(w), visible?(w, key), match?({^a, ^room}, at(key)), do: e
      users = rows |> Enum.map(&elem(&1, 1)) |> Enum.uniq() |> length()

      bytes =
        rows |> Enum.map(&(byte_size(elem(&1, 1)) + byte_size(elem(&1, 4)) + 40)) |> Enum.sum()

      want = {users, length(rows), xor(rows), bytes}
      got = w.mod.totals(w.r, a, room)
      check!(want == got, "the sums of a room are wrong", {a, room, want, got})
    end

    for {name, epoch, _} <- w.mod.incarnations(w.r) do
      root =
        for a <- @accounts, reduce: 0 do
          root ->
            rows = part(w, name, epoch, a) |> Map.values()
            {seq, count, digest} = w.mod.version(w.r, name, epoch, a)

            check!(
              {count, digest} == {length(rows), xor(rows)},
              "a part's sums are wrong",
              {name, a}
            )

            if count == 0, do: root, else: bxor(root, Brain.Roster.Table.share(a, seq, digest))
        end

      check!(root == w.mod.root(w.r, name, epoch), "a root is wrong", name)
    end
  end

  defp parts_are_their_version!(w) do
    Enum.reduce(w.mod.incarnations(w.r), w, fn {name, epoch, _}, w ->
      Enum.reduce(@accounts, w, fn account, w ->
        {seq, _, _} = w.mod.version(w.r, name, epoch, account)
        was = Map.get(w.seen, {epoch, account}, {:at, 0})
        half? = w.mod.half_applied?(w.r, account)
        check!(seq >= elem(was, 1), "a version went back", {name, account, was, seq})

        # A snapshot that was given up half-way leaves a mix until the next one.
        mixed? = half? or torn?(w.r, name, epoch, account)

        if not mixed? do
          rows = part(w, name, epoch, account)
          truth = Map.fetch!(w.history, {epoch, account, seq})
          check!(plain(rows) == plain(truth), "not what was written", {name, account, seq})
        end

        # And until then its version stands still.
        check!(
          elem(was, 0) == :at or not mixed? or half? or seq == elem(was, 1),
          "a torn part moved",
          name
        )

        tag = if mixed?, do: :mixed, else: :at
        %{w | seen: Map.put(w.seen, {epoch, account}, {tag, seq})}
      end)
    end)
  end

  defp torn?(r, name, epoch, account) do
    is_map_key(r.torn, {r.incarnations[{name, epoch}], r.tenants[account]})
  end

  defp plain(entries) do
    Map.new(entries, fn {k, {r, u, s, seq, meta, j, _, h}} -> {k, {r, u, s, seq, meta, j, h}} end)
  end

  # Read from the table itself, not by the code under test.
  defp entries(w) do
    accounts = w.r.accounts
    parts = Map.new(w.r.incarnations, fn {id, ix} -> {ix, id} end)

    for {{t, room, user, session, ix}, seq, meta, joined, active, hash} <-
          :ets.tab2list(w.r.entries) do
      {{accounts[t], parts[ix], room, user, session},
       {room, user, session, seq, meta, joined, active, hash}}
    end
  end

  defp at({account, _, room, _, _}), do: {account, room}
  defp visible?(w, {_, {name, epoch}, _, _, _}), do: w.mod.status(w.r, name, epoch) == :visible

  def part(w, name, epoch, account) do
    for {{^account, {^name, ^epoch}, room, user, session}, entry} <- entries(w), into: %{} do
      {{room, user, session}, entry}
    end
  end

  def view(w) do
    for a <- @accounts,
        room <- @rooms,
        {user, n, sessions} <- w.mod.members(w.r, a, room, 100),
        into: %{} do
      ^n = length(sessions)
      {{a, room, user}, sessions |> Enum.map(fn {s, m, j, _} -> {s, m, j} end) |> Enum.sort()}
    end
  end

  @doc "What all Shields have, as a view."
  def truth(w) do
    all =
      for {name, %{epoch: epoch, tenants: tenants}} <- w.shields,
          w.mod.status(w.r, name, epoch) == :visible,
          {account, t} <- tenants,
          {{room, user, session}, {_, _, _, _, meta, joined, _, _}} <- t.entries do
        {{account, room, user}, {session, meta, joined}}
      end

    all
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Map.new(fn {k, v} -> {k, Enum.sort(v)} end)
  end

  def digest(entries), do: entries |> Map.values() |> xor()
  defp xor(entries), do: Enum.reduce(entries, 0, &bxor(elem(&1, 7), &2))
end
